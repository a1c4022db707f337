"""The peer of an ensemble: a member's setting trained by transformers' Trainer and PEFT.

It is what `python -m bench.peers --vs trainer` runs: in a process of its own, from the weights that
the member began with, on the examples that it trained on, for as many steps, by the script that
users write.
"""

import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from bench.cell import Cell
from bench.conditions import Found
from bench.display import Display
from bench.errors import DiskFullError
from bench.gridfile import Settings
from bench.models import Model
from bench.peers.names import TRAINER
from bench.peers.session import Comparison, StartError, process_folder
from bench.peers.wanted import SAME
from bench.protocol import PREDICTIONS
from bench.schema import ITERATIVE, MULTITASK
from bench.signals import Signals
from minbert.ensemble import Floats
from minbert.tasks import TaskData

PEER: Final = "transformers + PEFT"


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
