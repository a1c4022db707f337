"""The peer of an ensemble: a member's setting trained by transformers' Trainer and PEFT.

It is what `python -m bench.peers --vs trainer` runs: in a process of its own, from the weights that
the member began with, on the examples that it trained on, for as many steps, by the script that
users write. What it predicts is kept in the member's folder, since a training takes minutes.
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
"""What the peer predicted, in the folder of the cell whose setting it trained."""
_KEY, _LIBRARIES = "key", "libraries"


class PeerError(Exception):
    """The peer could not be trained. One line."""


def why_not(cell: Cell, device: str) -> str | None:
    """Why the peer can't train a cell's setting on a device; None if it can."""
    if cell.task == MULTITASK:
        return "the peer's script learns one task alone"
    if cell.unfreeze == ITERATIVE:
        return "the peer's script has no gradual unfreezing"
    usual = Settings()
    for name in SAME:
        if getattr(cell, name) not in (None, getattr(usual, name)):
            return f"the peer's script has {name} {getattr(usual, name)} alone"
    if cell.amp == "fp16" and device == "cpu":
        return "amp fp16 needs a GPU"
    return None


@dataclass(frozen=True)
class PeerPredictions:
    """What the peer predicted on dev, and by which libraries.

    Attributes:
        logits: [N, C].
        libraries: their names and versions, as they are told.
    """

    logits: Floats
    libraries: str


class KeptPeer:
    """The peer's predictions in a setting, in a cell's folder.

    They count while the cell's attempt, the machine, the libraries and the dev labels are those
    that they were made with.

    Args:
        folder: the cell's.
        labels: [N] of dev.
        found: where the peer is trained.
    """

    def __init__(self, folder: Path, cell: Cell, labels: NDArray[np.generic], found: Found) -> None:
        self.path = folder / FILE
        self._labels = np.asarray(labels)
        self._libraries = ", ".join(f"{name} {of}" for name, of in versions().items())
        self._key = digest([cell.cell_id, found.conditions.conditions_id, self._libraries])

    def read(self) -> PeerPredictions | None:
        """The predictions; None where there are none that count."""
        try:
            with safe_open(self.path, framework="numpy") as file:
                notes = file.metadata() or {}
                if notes.get(_KEY) != self._key:
                    return None
                logits, labels = (file.get_tensor(name) for name in ("logits", "labels"))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        fits = logits.ndim == 2 and len(logits) == len(labels)
        if not fits or not np.isfinite(logits).all() or not np.array_equal(labels, self._labels):
            return None
        return self._as_given(logits)

    def write(self, logits: Floats) -> PeerPredictions:
        """Keep predictions. Where they can't be, that is told, and the next time trains again."""
        tensors = {"logits": logits.astype(np.float32), "labels": self._labels}
        notes = {_KEY: self._key, _LIBRARIES: self._libraries}
        try:
            write_atomically(self.path, save(tensors, metadata=notes))
        except OSError as error:
            sys.stderr.write(f"note: {self.path}: can't be written ({error.strerror})\n")
        return self._as_given(tensors["logits"])

    def _as_given(self, logits: NDArray[np.generic]) -> PeerPredictions:
        return PeerPredictions(np.asarray(logits, dtype=np.float64), self._libraries)


def train_peer(
    cell: Cell, examples: TaskData, model: Model, data: Path | None, found: Found
) -> Floats:
    """Train a cell's setting by the peer; its logits [N, C] on dev.

    Args:
        examples: the cell's.
        model: the checkpoint that the cell began with.
        data: the folder of the task's files; none for an embedded task.
        found: where to train.

    Raises:
        PeerError: if it failed.
        StoppedError: if the user stopped it.
    """
    if cell.frozen_dtype is not None:
        cell = replace(cell, frozen_dtype=FP32)  # as the peer holds them, whatever the member did
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
            kept = load_file(process_folder(folder, cell, TRAINER, 0) / PREDICTIONS)
        except (StartError, DiskFullError, OSError, SafetensorError) as error:
            raise PeerError(str(error)) from error
    return np.asarray(kept["logits"], dtype=np.float64)
