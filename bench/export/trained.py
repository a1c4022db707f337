"""A trained cell, with everything that an exported model is made of and compared with."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.plan.job import Job
from bench.plan.rows import Row
from minbert.data.tasks import Examples, Task

if TYPE_CHECKING:
    from minbert.data.tokenizer import TextEncoder
    from minbert.model.classifier import Classifier


@dataclass(frozen=True)
class Base:
    """The checkpoint that a cell was trained from.

    Attributes:
        name: on the Hugging Face hub, or else the name of its folder.
        on_hub: whether the hub has it.
        revision: the commit on the hub, where known.
        file: the name of the file of its weights.
        sha256: of that file, in hexadecimal.
        licence: as the hub or its files name it; None: not known.
        folder: the checkpoint's folder on this machine.
    """

    name: str
    on_hub: bool
    revision: str | None
    file: str
    sha256: str
    licence: str | None
    folder: Path


@dataclass(frozen=True)
class Trained:
    """A trained cell.

    Attributes:
        row: its row of results.
        job: its settings, and the files that it was trained from.
        base: the checkpoint that it was trained from.
        task: what it has learned.
        model: the trained model in fp32, on the CPU, in evaluation mode, its adapters not merged.
        tokenizer: the base's.
        dev: the dev examples.
        unit: mean and std by which the logits of a regression return to the unit of the labels;
            else 0 and 1.
        refitted: whether it was trained on all examples, those of dev included.
        again: whether it was trained for the export, so that its score is another than that of the
            first training.
    """

    row: Row
    job: Job
    base: Base
    task: Task
    model: "Classifier"
    tokenizer: "TextEncoder"
    dev: Examples
    unit: tuple[float, float]
    refitted: bool
    again: bool = False
    changed: int = 0

    def exact_logits(self, examples: Examples) -> NDArray[np.float32]:
        """The model's logits [N, C] of examples in fp32, in the unit of the labels."""
        import torch

        from minbert.training.evaluation import predict

        cell = self.job.cell
        texts = self.tokenizer.encode(examples.text_a, examples.text_b, cell.max_length)
        logits = predict(
            self.model,
            [texts],
            batch_size=cell.batch_size,
            amp="off",
            pad_id=self.model.pad_id,
            device=torch.device("cpu"),
        )
        mean, std = self.unit
        return (logits.astype(np.float64) * std + mean).astype(np.float32)
