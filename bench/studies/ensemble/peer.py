"""A member's setting trained by transformers' Trainer and PEFT, as a baseline of an ensemble.

The training is that of `python -m bench.peers --vs trainer`: a process of its own with a typical
Trainer script, the member's initial weights, its training examples and as many steps. Predictions
are kept in the member's folder, since a training takes minutes.
"""

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from bench.common.errors import DiskFullError
from bench.common.files import write_atomically
from bench.grid.display import Display
from bench.launch.signals import Signals
from bench.machine.conditions import Found
from bench.peers.names import TRAINER, versions
from bench.peers.session import Comparison, StartError, process_folder
from bench.peers.wanted import SAME
from bench.plan.cell import FP32, ITERATIVE, MULTITASK, Cell, digest
from bench.plan.gridfile import Settings
from bench.plan.models import Model
from bench.results.protocol import PREDICTIONS
from bench.studies.ensemble.averages import Floats
from minbert.data.tasks import TaskData

PEER: Final = "transformers + PEFT"
FILE: Final = "peer.safetensors"
"""Its predictions, in the folder of the cell whose setting it trained."""
_KEY, _LIBRARIES = "key", "libraries"


class PeerError(Exception):
    """The training failed. One line."""


def why_not(cell: Cell, device: str) -> str | None:
    """The reason why they can't train a cell's setting on a device; None if they can."""
    if cell.task == MULTITASK:
        return "the Trainer script learns only one task"
    if cell.unfreeze == ITERATIVE:
        return "the Trainer script has no gradual unfreezing"
    defaults = Settings()
    for name in SAME:
        if getattr(cell, name) not in (None, getattr(defaults, name)):
            return f"the Trainer script has only {name} {getattr(defaults, name)}"
    if cell.amp == "fp16" and device == "cpu":
        return "amp fp16 needs a GPU"
    return None


@dataclass(frozen=True)
class PeerPredictions:
    """Logits [N, C] on dev, and the names and versions of the libraries that trained."""

    logits: Floats
    libraries: str


class KeptPeer:
    """The file of predictions in a cell's folder.

    They are reused while the cell, the machine, the libraries and the dev labels are the same.

    Args:
        labels: [N] of dev.
        found: the machine to train on.
    """

    def __init__(self, folder: Path, cell: Cell, labels: NDArray[np.generic], found: Found) -> None:
        self.path = folder / FILE
        self._labels = np.asarray(labels)
        self._libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
        self._key = digest([cell.cell_id, found.conditions.conditions_id, self._libraries])

    def read(self) -> PeerPredictions | None:
        """The predictions; None where there are none that can be reused."""
        try:
            with safe_open(self.path, framework="numpy") as file:
                notes = file.metadata() or {}
                if notes.get(_KEY) != self._key:
                    return None
                logits, labels = (file.get_tensor(name) for name in ("logits", "labels"))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        shapes_fit = logits.ndim == 2 and len(logits) == len(labels)
        usable = shapes_fit and np.isfinite(logits).all() and np.array_equal(labels, self._labels)
        return self._predictions(logits) if usable else None

    def write(self, logits: Floats) -> PeerPredictions:
        """Write predictions. If that fails, print a note; the next call then trains again."""
        tensors = {"logits": logits.astype(np.float32), "labels": self._labels}
        notes = {_KEY: self._key, _LIBRARIES: self._libraries}
        try:
            write_atomically(self.path, save(tensors, metadata=notes))
        except OSError as error:
            sys.stderr.write(f"note: {self.path}: can't be written ({error.strerror})\n")
        return self._predictions(tensors["logits"])

    def _predictions(self, logits: NDArray[np.generic]) -> PeerPredictions:
        return PeerPredictions(np.asarray(logits, dtype=np.float64), self._libraries)


def train_peer(
    cell: Cell, examples: TaskData, model: Model, data: Path | None, found: Found
) -> Floats:
    """Train a cell's setting by Trainer and PEFT, and return the logits [N, C] on dev.

    Args:
        examples: the cell's.
        model: the checkpoint that the cell was trained from.
        data: the folder of the task's files; none for an embedded task.
        found: the machine to train on.

    Raises:
        PeerError: if the training failed.
        StoppedError: if the user stopped it.
    """
    if cell.frozen_dtype is not None:
        cell = replace(cell, frozen_dtype=FP32)  # as transformers keeps them
    with (
        Signals() as signals,
        tempfile.TemporaryDirectory(prefix="bench-ensemble-") as name,
        Display(total=1) as display,
    ):
        comparison = Comparison(
            cells=[cell],
            sides=(TRAINER,),
            rounds=1,
            loss_steps=0,
            budget_s=0.0,
            whole=True,
            model=model,
            conditions=found.conditions,
            device_name=found.device_name,
            data=data,
            on_progress=display.progress,
        )
        folder = Path(name)
        display.start(f"{cell.name} by {PEER}")
        try:
            new_pooler = comparison.prepare(folder, examples, signals)
            (attempt,) = comparison.attempts(
                folder, new_pooler, (), signals, lambda _, text: display.note(text)
            )
            if attempt.status != "ok":
                raise PeerError(f"{attempt.status}: {attempt.message}")
            tensors = load_file(process_folder(folder, cell, TRAINER, 0) / PREDICTIONS)
        except (StartError, DiskFullError, OSError, SafetensorError) as error:
            raise PeerError(str(error)) from error
    return np.asarray(tensors["logits"], dtype=np.float64)
