"""A trained cell, with everything that an exported model is made of and compared with, and the
checkpoint that it was trained from, as others can get it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from bench.plan.job import Job
from bench.plan.models import Model
from bench.plan.rows import Row
from minbert.assets.embedded import ASSETS
from minbert.data.tasks import Examples, Task
from minbert.files import is_file, sha256_of, weights_file

if TYPE_CHECKING:
    from minbert.data.tokenizer import TextEncoder
    from minbert.model.classifier import Classifier

_LICENCE: Final = re.compile(r"^license:\s*[\"']?([\w.+-]{1,60})", re.MULTILINE)
_LONGEST: Final = 2**20
_SNAPSHOT: Final = re.compile(r".*/models--([^/]+)/snapshots/([^/]+)")
"""Name and commit of a checkpoint in the cache of the hub's library, by its folder."""


@dataclass(frozen=True)
class Base:
    """The checkpoint that a cell was trained from: its name on the Hugging Face hub, or else that
    of its folder on this machine, the commit on the hub where known, the file of its weights with
    its SHA-256 in hexadecimal, and the licence as the hub or its files name it; None: not known."""

    name: str
    on_hub: bool
    revision: str | None
    file: str
    sha256: str
    licence: str | None
    folder: Path


@dataclass(frozen=True)
class Trained:
    """A trained cell."""

    row: Row
    job: Job
    base: Base
    task: Task
    model: "Classifier"  # in fp32, on the CPU, in evaluation mode, its adapters not merged
    tokenizer: "TextEncoder"
    dev: Examples
    unit: tuple[float, float]  # mean and std that give logits the labels' unit; else 0 and 1
    refitted: bool  # whether it was trained on all examples, those of dev included
    again: bool = False  # whether it was trained for the export, and has another score
    changed: int = 0  # the number of dev predictions in fp32 that differ from the kept ones

    def exact_logits(self, examples: Examples) -> NDArray[np.float32]:
        """Logits [N, C] of examples, or [M, C] of words, in fp32, in the unit of the labels."""
        import torch

        from bench.examples.tokens import encode_for
        from minbert.training.evaluation import predict

        cell = self.job.cell
        texts = encode_for(cell, self.tokenizer, examples)
        logits = predict(
            self.model,
            [texts],
            batch_size=cell.batch_size,
            amp="off",
            device=torch.device("cpu"),
            tags=examples.labels if examples.by_word else None,
        )
        mean, std = self.unit
        return (logits.astype(np.float64) * std + mean).astype(np.float32)


def describe_base(model: Model) -> Base:
    """A model's checkpoint: its name and commit on the hub where known, digest and licence;
    ValueError if its weights are random."""
    folder = model.checkpoint
    if folder is None:
        raise ValueError("a model with random weights has no checkpoint")
    weights = weights_file(folder)
    sha256 = sha256_of(weights)
    name, revision, licence = model.name, None, _licence_in(folder / "README.md")
    if snapshot := _SNAPSHOT.fullmatch(str(folder)):
        name, revision = snapshot[1].replace("--", "/"), snapshot[2]
    for asset in ASSETS.values():
        if asset.hub and asset.files.get(weights.name) == sha256:
            (name, revision), licence = asset.hub, asset.licence.lower()
    return Base(name, revision is not None, revision, weights.name, sha256, licence, folder)


def _licence_in(card: Path) -> str | None:
    if not is_file(card) or card.stat().st_size > _LONGEST:
        return None
    _, fence, rest = card.read_text(encoding="utf-8", errors="replace").partition("---\n")
    match = _LICENCE.search(rest.partition("\n---")[0]) if fence else None
    return match and match[1]
