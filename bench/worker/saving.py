"""Files that outlast a cell: its predictions and, with --save-weights, its trained weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_tensors
from torch import nn

from adapters.methods import METHODS
from bench.plan.job import Job
from bench.results.protocol import PREDICTIONS
from bench.worker.setup import Split
from minbert.files import WEIGHTS
from minbert.model.classifier import BertClassifier


class HeldOut(NamedTuple):
    """Held-out training examples of a part, N, with their indices [N] and their logits [N, C]."""

    split: Split
    indices: NDArray[np.int64]
    logits: NDArray[np.float32]


def save_predictions(
    folder: Path,
    dev: Mapping[str, Split],
    logits: Mapping[str, NDArray[np.float32]],
    held_out: Mapping[str, HeldOut],
) -> None:
    """Write predictions.safetensors: the last logits and the labels of all dev and held-out
    examples of each part."""
    arrays: dict[str, NDArray[Any]] = {}
    for part, split in dev.items():
        prefix = _prefix(part)
        arrays |= {f"{prefix}logits": logits[part], f"{prefix}labels": split.labels}
    for part, held in held_out.items():
        prefix = _prefix(part)
        arrays[f"{prefix}held_logits"] = held.logits
        arrays[f"{prefix}held_labels"] = held.split.labels
        arrays[f"{prefix}held_indices"] = held.indices
    save_arrays(arrays, folder / PREDICTIONS, metadata=target_notes(dev))


def target_notes(dev: Mapping[str, Split]) -> dict[str, str]:
    """Mean and std by which the logits of a regression return to the scale of its labels."""
    notes = {}
    for part, split in dev.items():
        notes[f"{_prefix(part)}target_mean"] = f"{split.mean:.9g}"
        notes[f"{_prefix(part)}target_deviation"] = f"{split.std:.9g}"
    return notes


def _prefix(part: str) -> str:
    """The beginning of the names of a part's arrays and notes."""
    return f"{part}." if part else ""


def restore_frozen(model: nn.Module, exact: nn.Module) -> None:
    """Give weights that were frozen in half precision their values in fp32 again.

    Args:
        exact: the same model as it was before training, with all weights in fp32.
    """
    before = dict(exact.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.dtype != before[name].dtype:
            parameter.data = before[name].data


def save_weights(model: BertClassifier, job: Job, folder: Path, notes: Mapping[str, str]) -> None:
    """Write the trained weights: adapters in PEFT's format, a model with one head as a checkpoint,
    one with several as plain tensors under their names in this project.

    Args:
        folder: the cell's.
        notes: as of `target_notes`.
    """
    cell = job.cell
    if cell.mode in METHODS:
        from adapters.peft_format import save_adapter

        notes = {"pooling": cell.pooling, "head": cell.head, **notes}
        if cell.encoders is not None:
            notes["encoders"] = str(cell.encoders)
        save_adapter(model, folder / "adapter", cell.model, notes)
    elif isinstance(model.classifier, nn.ModuleDict):
        tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
        path = folder / "checkpoint" / WEIGHTS[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(tensors, path, metadata={"format": "pt", **notes})
    else:
        from minbert.model.checkpoint import save_checkpoint

        save_checkpoint(model, folder / "checkpoint", Path(job.tokenizer))
