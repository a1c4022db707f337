"""Files of a cell: its curves, predictions and, if they are kept, its trained weights."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_arrays
from safetensors.torch import save_file as save_tensors
from torch import nn

from bench.common.files import umask, write_atomically
from bench.results.protocol import EPOCHS, PANEL, PHASES, PREDICTIONS, STEPS, WEIGHTS
from bench.worker.probes.memory import Phases
from bench.worker.probes.replay import Replayed
from bench.worker.probes.steps import Step
from bench.worker.setup import Split
from minbert.model.classifier import Classifier


@dataclass
class Epoch:
    """Losses and scores of an epoch, on its training batches and then on dev; with early stopping
    on the held-out examples, too; and the dev scores of a task's parts by the names of their
    columns."""

    train_loss: float
    train_score: float | None
    dev_loss: float
    dev_score: float | None
    held_out: tuple[float, float | None] | None = None
    parts: Mapping[str, float | None] = field(default_factory=dict)


def save_predictions(
    folder: Path,
    dev: Mapping[str, Split],
    logits: Mapping[str, NDArray[np.float32]],
    held_out: Mapping[str, Split],
    held_out_logits: Mapping[str, NDArray[np.float32]],
    held_out_indices: Mapping[str, NDArray[np.int64]],
) -> None:
    """Write predictions.safetensors: the last logits [N, C] and the labels [N] of all dev and
    held-out examples of each part, the documents [N] of the former, if known, and the indices [N]
    of the latter; as notes the mean and std by which the logits of a regression return to the scale
    of its labels."""
    arrays: dict[str, NDArray[Any]] = {}
    notes = {}
    for part, split in dev.items():
        prefix = f"{part}." if part else ""
        arrays |= {f"{prefix}logits": logits[part], f"{prefix}labels": split.labels}
        if split.documents is not None:
            arrays[f"{prefix}documents"] = split.documents
        notes[f"{prefix}target_mean"] = f"{split.mean:.9g}"
        notes[f"{prefix}target_deviation"] = f"{split.std:.9g}"
        if part in held_out:
            arrays[f"{prefix}held_logits"] = held_out_logits[part]
            arrays[f"{prefix}held_labels"] = held_out[part].labels
            arrays[f"{prefix}held_indices"] = held_out_indices[part]
    write_atomically(folder / PREDICTIONS, save_arrays(arrays, metadata=notes))


def save_weights(model: Classifier, trained: Iterable[nn.Parameter], folder: Path) -> None:
    """Write the parameters that trained, and what else the checkpoint does not have, by name into a
    cell's folder, whole or not at all."""
    chosen = set(trained)
    kept = {name: p.detach() for name, p in model.named_parameters() if p in chosen}
    tensors = {name: t.cpu().contiguous() for name, t in (kept | model.fixed_tensors()).items()}
    unfinished = folder / f".{WEIGHTS}.tmp"
    save_tensors(tensors, unfinished)
    unfinished.chmod(0o666 & ~umask())  # safetensors' files are for their owner alone
    unfinished.replace(folder / WEIGHTS)


def write_steps(folder: Path, steps: Sequence[Step], losses: Sequence[float]) -> None:
    rows = [
        {"step": number, **_step_fields(step), "loss": f"{loss:.9g}"}
        for number, (step, loss) in enumerate(zip(steps, losses, strict=True), start=1)
    ]
    _write_csv(folder / STEPS, rows)


def write_epochs(folder: Path, epochs: Sequence[Epoch]) -> None:
    rows = []
    for number, epoch in enumerate(epochs, start=1):
        row: dict[str, object] = {"epoch": number, **vars(epoch), **epoch.parts}
        del row["held_out"], row["parts"]
        if epoch.held_out is not None:
            row["held_out_loss"], row["held_out_score"] = epoch.held_out
        rows.append(row)
    _write_csv(folder / EPOCHS, rows)


def write_replay(folder: Path, replayed: Replayed) -> None:
    warm, settled = replayed.warm, int(replayed.settled)
    rows = [
        {"pass": number, "batch": batch, **_step_fields(step)}
        | {"counts": int(number >= warm), "settled": settled}
        for number, steps in enumerate(replayed.passes)
        for batch, step in enumerate(steps)
    ]
    _write_csv(folder / PANEL, rows)


def _step_fields(step: Step) -> dict[str, object]:
    """A step's sizes and times, ms; of its parts where these were timed."""
    return {
        name: "" if value is None else f"{value:.4f}" if name.endswith("ms") else value
        for name, value in vars(step).items()
    }


def write_phases(folder: Path, phases: Phases) -> None:
    rows = [
        {"phase": name, "seconds": f"{seconds:.4f}"}
        | {f"peak_{key}": value for key, value in vars(phases.peaks[name]).items()}
        for name, seconds in phases.seconds.items()
    ]
    _write_csv(folder / PHASES, rows)


def _write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
