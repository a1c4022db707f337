"""A member's setting trained by transformers' Trainer and PEFT, as a baseline of an ensemble.

The training is that of `python -m bench.peers --vs trainer`: a process of its own with a typical
Trainer script, the member's initial weights, its training examples and as many steps. Predictions
are kept in the member's folder, since a training takes minutes.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
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
from bench.peers.inputs import SAME
from bench.peers.names import TRAINER, versions
from bench.peers.session import Comparison, StartError, process_folder
from bench.plan.cell import FP32, ITERATIVE, MULTITASK, Cell, digest
from bench.plan.gridfile import Settings
from bench.plan.models import Model
from bench.results.origins import data_folder, examples_of, model_of
from bench.results.protocol import PREDICTIONS
from bench.studies.ensemble.averages import Floats
from bench.studies.ensemble.baselines import WITHOUT
from bench.studies.ensemble.members import Member
from bench.studies.ensemble.outcome import Outcome, entry_for
from minbert.data.tasks import TaskData

PEER: Final = "transformers + PEFT"
FILE: Final = "peer.safetensors"
"""Its predictions, in the folder of the cell whose setting it trained."""
_KEY: Final = "key"


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


def with_peers(outcomes: Sequence[Outcome], data: Path | None) -> list[Outcome]:
    """Outcomes with the score that transformers + PEFT reach with the best member's setting.

    If they can't train that setting, they train the best they can, by score on held-out examples;
    if they can train none, a note says so. A failed training adds a problem. Results of earlier
    calls are reused. Where all members were trained on a CPU, so are these.

    Args:
        data: the folder of the tasks' files, if they are not embedded.

    Raises:
        InputError: if examples or a checkpoint are missing, before anything is trained.
        StoppedError: if the user stopped a training.
    """
    from bench.machine.conditions import find_conditions

    members = [member for outcome in outcomes for member in outcome.candidates.members]
    on_cpu = all(member.row.device == "cpu" for member in members)
    machine = find_conditions("cpu" if on_cpu else "auto")
    trainings = [_training(outcome, data, machine) for outcome in outcomes]
    return [train() for train in trainings]


def _training(outcome: Outcome, data: Path | None, machine: Found) -> Callable[[], Outcome]:
    """A function that trains an outcome's setting, if it has to be trained, and returns the outcome
    with its score."""

    def obstacle(member: Member) -> str | None:
        return why_not(member.row.cell, machine.conditions.device)

    candidates, best = outcome.candidates, outcome.best_member
    trainable = [
        entry for entry in (outcome.best, *outcome.alone) if not obstacle(entry.members[0])
    ]
    if not trainable:
        note = f"{PEER} left out for {best.name}: {obstacle(best)}"
        note += "; nor can they train another cell's setting" if len(outcome.alone) > 1 else ""
        return partial(outcome.with_notes, note)
    (member,) = max(trainable, key=lambda entry: entry.held_score or 0.0).members
    cell, path = member.row.cell, member.folder / FILE
    libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
    key = digest([cell.cell_id, machine.conditions.conditions_id, libraries])
    earlier = _read(path, key, candidates.labels)
    if earlier is None:
        folder = data_folder(member.row, member.folder, data)
        examples = examples_of(member.row, folder).parts[outcome.task]
        model = model_of(member.row, member.folder, WITHOUT)

    def train() -> Outcome:
        logits = earlier
        try:
            if logits is None:
                logits = train_peer(cell, examples, model, folder, machine).astype(np.float32)
                _write(path, key, logits, candidates.labels)
            entry = entry_for(
                candidates, PEER, logits.astype(np.float64), cell.name, members=(member,)
            )
        except (PeerError, ValueError) as error:
            problem = f"{outcome.task}: {PEER}: {error}"
            return replace(outcome, problems=(*outcome.problems, problem))
        note = f"{PEER} trained the setting of {cell.name} ({libraries})"
        if member is not best:
            note += f", the best that they can: for {candidates.name_of(best)} {obstacle(best)}"
        return replace(outcome, others=[*outcome.others, entry]).with_notes(note)

    return train


def _read(path: Path, key: str, labels: NDArray[np.generic]) -> NDArray[np.float32] | None:
    """The logits [N, C] in a file; None unless its key and the labels of dev are these."""
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get(_KEY) != key:
                return None
            logits: NDArray[np.float32] = file.get_tensor("logits")
            usable = np.array_equal(labels, file.get_tensor("labels"))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    usable = usable and logits.ndim == 2 and len(logits) == len(labels)
    return logits if usable and np.isfinite(logits).all() else None


def _write(path: Path, key: str, logits: NDArray[np.float32], labels: NDArray[np.generic]) -> None:
    """Keep logits. If that fails, print a note; the next call then trains again."""
    tensors = {"logits": logits, "labels": np.asarray(labels)}
    try:
        write_atomically(path, save(tensors, metadata={_KEY: key}))
    except OSError as error:
        sys.stderr.write(f"note: {path}: can't be written ({error.strerror})\n")


def train_peer(
    cell: Cell, examples: TaskData, model: Model, data: Path | None, machine: Found
) -> Floats:
    """Train a cell's setting by Trainer and PEFT, and return the logits [N, C] on dev.

    Args:
        examples: the cell's.
        model: the checkpoint that the cell was trained from.
        data: the folder of the task's files; none for an embedded task.
        machine: the one to train on.

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
            conditions=machine.conditions,
            device_name=machine.device_name,
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
