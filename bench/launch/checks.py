"""Checks before a run's first cell, so that bad input costs no time. Each refusal is one line."""

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from bench.common.errors import InputError
from bench.common.files import folder_for_now, try_to_write
from bench.machine.devices import Device
from bench.plan.cell import FP32, ITERATIVE, Cell
from bench.plan.gridfile import Grid, Settings
from bench.plan.models import Model
from bench.plan.parts import most_encoders
from bench.plan.planning import Planned
from minbert.check import check_checkpoint
from minbert.data.metrics import constant
from minbert.data.tasks import Data, TaskData
from minbert.data.tokenizer import Tokenizer
from minbert.files import is_folder
from minbert.model.config import count_parameters
from minbert.training.quarters import QUARTERS, layers_in

MSE: Final = "mse"
"""The name in `minbert.training.losses`, which is not imported because it loads torch."""

SPACE_PER_CELL_MIB: Final = 2
SPACE_AT_LEAST_MIB: Final = 64
_PART_SETTINGS: Final = ("encoders", "task_order", "task_rates", "task_decays")
"""Settings that only a task with parts has."""


def check_amp(cells: Sequence[Cell], grid: Grid, device: Device) -> None:
    """Refuse fp16 on the CPU, and types that a GPU can't compute in.

    Raises:
        InputError: naming the grid.
    """
    amps = {cell.amp for cell in cells}
    if device.gpu is None:
        if "fp16" in amps:
            raise InputError(f"grid {grid.name}: amp fp16 needs a GPU; on the CPU take bf16 or on")
        return
    if failing := min(amps & device.failures.keys(), default=None):
        raise InputError(
            f"grid {grid.name}: {device.gpu.name} can't compute in amp {failing} "
            f"({device.failures[failing]}); leave those cells out with --select"
        )


def amp_notes(cells: Sequence[Cell], device: Device) -> list[str]:
    """A note if cells train in bf16 and the GPU only emulates it."""
    if device.gpu is None or device.has_bf16 or all(cell.amp != "bf16" for cell in cells):
        return []
    return [
        f"amp bf16: {device.gpu.name} has no bf16 units, so torch emulates them, and times say "
        "nothing about a GPU that has them; amp on is fp16 here"
    ]


def check_head(cells: Sequence[Cell], keep: bool) -> None:
    """Refuse to save whole models with a head that the checkpoint format has no place for.

    Models of a task with parts are saved as plain tensors, whatever their heads.

    Raises:
        InputError: naming the head.
    """
    heads = [cell.head for cell in cells if cell.layers is None and cell.encoders is None]
    head = next((head for head in heads if head != "linear"), None)
    if keep and head is not None:
        raise InputError(
            f"--save-weights: a checkpoint has no place for the head {head}; take head linear, "
            'or only cells with adapters: --select "mode=lora,dora"'
        )


def check_held_out(share: float, data: Data) -> None:
    """Refuse to hold out a share that rounds to no example in any part of the task.

    Raises:
        InputError: naming the share.
    """
    for name, size in data.sizes.items():
        if share and not round(share * size.train):
            part = f" of {name}" if data.task.parts else ""
            raise InputError(
                f"held_out {share:g} of {size.train} training examples{part} is none; hold out "
                "more, or nothing"
            )


def check_loss(variants: Sequence[Settings], cells: Sequence[Cell], data: Data) -> None:
    """Refuse a regression loss for a task of classes, and a correlation that no batch can have.

    Args:
        variants: the settings of the cells' grid.

    Raises:
        InputError: naming the loss, and why it can't be used.
    """
    losses = {settings.regression_loss for settings in variants} - {MSE}
    if not losses:
        return
    prefix = f"regression_loss {min(losses)}: "
    if data.task.classes:
        raise InputError(f"{prefix}task {data.task.name} has classes; leave it out")
    cells = [cell for cell in cells if cell.regression_loss in losses]
    if data.regression and any(cell.batch_size == 1 for cell in cells):
        raise InputError(
            f"{prefix}a batch of 1 example has no correlation; take batches of at least 2, or {MSE}"
        )
    for name, part in _examples(data).items() if cells else ():
        if not part.task.classes and constant(part.train.labels):
            raise InputError(
                f"{prefix}{_alike(name, part, part.train.labels, 'training')}, which have no "
                f"correlation; take other data, or {MSE}"
            )


def label_notes(data: Data) -> list[str]:
    """Notes on parts of the task whose training or dev labels are all the same."""
    notes = []
    for name, part in _examples(data).items():
        if constant(part.train.labels):
            alike = _alike(name, part, part.train.labels, "training")
            notes.append(f"{alike}, so there is nothing to learn")
        if constant(part.dev.labels):
            alike = _alike(name, part, part.dev.labels, "dev")
            of_class = ", so its accuracy is of one class alone"
            of_number = ", which have no correlation, so there is no score"
            notes.append(alike + (of_class if part.task.classes else of_number))
    return notes


def _examples(data: Data) -> Mapping[str, TaskData]:
    """Examples by the name of the part, or of the task. Both texts of a pair have its label, so one
    of them stands for both."""
    return {piece.task.name: piece for piece in data.pieces().values()}


def _alike(name: str, part: TaskData, labels: NDArray[Any], side: str) -> str:
    """A clause on labels that are all the same: `sts: all 12 dev labels are 3.8`."""
    label = float(labels[0])
    class_name = f" ({part.task.classes[int(label)]})" if part.task.classes else ""
    return f"{name}: all {len(labels)} {side} labels are {label:g}{class_name}"


def idle_notes(variants: Sequence[Settings], cells: Sequence[Cell], data: Data) -> list[str]:
    """Notes on settings that have no effect on the data or the cells.

    Args:
        variants: the settings of the cells' grid.
    """
    notes = [note for settings in variants for note in _idle(settings, data)]
    dtypes = {settings.frozen_dtype for settings in variants} - {FP32}
    if dtypes and all(cell.frozen_dtype in (None, FP32) for cell in cells):
        notes.append(f"frozen_dtype {min(dtypes)}: no cell with it has frozen weights under AMP")
    return list(dict.fromkeys(notes))


def _idle(settings: Settings, data: Data) -> list[str]:
    usual, notes = Settings(), []
    given = [name for name in _PART_SETTINGS if getattr(settings, name) != getattr(usual, name)]
    if given and not data.task.parts:
        notes.append(f"without effect on task {data.task.name}: {', '.join(given)}")
    if data.task.parts and settings.encoders > most_encoders(data.sizes):
        notes.append(f"encoders {settings.encoders}: there is one, as of {', '.join(data.sizes)}")
    if settings.regression_loss != usual.regression_loss and not data.regression:
        notes.append(f"regression_loss {settings.regression_loss}: no part of the data has it")
    return notes


def check_compile(cells: Sequence[Cell]) -> None:
    """Refuse to compile training whose steps are of several kinds: each needs code of its own.

    Raises:
        InputError: naming the setting.
    """
    compiled = [cell for cell in cells if cell.is_compiled]
    if any(cell.encoders is not None for cell in compiled):
        raise InputError(
            f"compile: steps of task {compiled[0].task} are of several parts, which are not "
            "compiled; leave it out"
        )
    if any(cell.unfreeze == ITERATIVE for cell in compiled):
        raise InputError(
            f"compile: with unfreeze {ITERATIVE} other layers train in each epoch, in other code; "
            "leave either out"
        )


def unfreezing_notes(cells: Sequence[Cell], data: Data, layers: int) -> list[str]:
    """A note if training ends before the whole model is unfrozen, on the cell that ends first.

    Args:
        layers: the encoder's number of layers.
    """
    epochs = min((_epochs(c, data) for c in cells if c.unfreeze == ITERATIVE), default=QUARTERS + 1)
    if epochs > QUARTERS:
        return []
    return [
        f"unfreezing ends in epoch {QUARTERS + 1}, and training in epoch {epochs}: "
        f"{layers_in(epochs - 1, layers)} of {layers} layers train, and no embeddings"
    ]


def _epochs(cell: Cell, data: Data) -> int:
    """The epoch, counted from 1, in which a cell's training ends."""
    if cell.max_steps is None:
        return cell.epochs
    examples = (size.train - round(cell.held_out * size.train) for size in data.sizes.values())
    steps = sum(math.ceil(count / cell.batch_size) for count in examples)
    return min(cell.epochs, math.ceil(cell.max_steps / steps))


def without_idle_caps(grid: Grid, data: Data) -> Grid:
    """The grid without caps that exceed the data, so that reports don't mention them."""
    sizes = {
        "max_train": max(size.train for size in data.sizes.values()),
        "max_dev": max(size.dev for size in data.sizes.values()),
    }
    caps = {name: getattr(grid.settings, name) for name in sizes}
    idle = {name: None for name, cap in caps.items() if cap is not None and cap > sizes[name]}
    return grid.model_copy(update={"settings": grid.settings.model_copy(update=idle)})


def check_search(grid: Grid, examples: int, searched: TaskData) -> None:
    """Refuse a search for learning rates if they are given, or if no score can decide them.

    Args:
        examples: the number of training examples.
        searched: the data that the search uses.

    Raises:
        InputError: saying why there can be no search.
    """
    if any(axes.learning_rate for axes in grid.cells):
        raise InputError(
            f"--lr auto: grid {grid.name} has learning_rate as an axis, and a search finds one "
            "for all; leave either out"
        )
    if grid.settings.init == "random":
        raise InputError("--lr auto: random weights have no score to find rates by; leave it out")
    if not len(searched.train):
        raise InputError(
            "--lr auto: the search holds out a part of the training examples, and of "
            f"{examples} none is left to train on; give it at least 2 (--max-train)"
        )


def check_model(model: Model, init: str) -> None:
    """Load vocabulary and weights once, before any cell does. Embedded ones need no check.

    Raises:
        InputError: the error that every cell would end with.
    """
    if init == "random" and not model.embedded:
        Tokenizer.from_folder(model.tokenizer)
    if init == "pretrained" and model.checkpoint is not None and not model.embedded:
        check_checkpoint(model.checkpoint, model.digest)


def check_reports(reports: Path, place: str = "figures") -> None:
    """Test that a report can be written, since that happens hours later. No files remain.

    Args:
        place: the name of the folder of its figures, inside the folder of its pages.

    Raises:
        InputError: if it can't be written.
    """
    figures = reports / place
    for folder in (reports, figures):
        if os.path.lexists(folder) and not is_folder(folder):
            raise InputError(f"--reports: {folder} is a file; name a folder")
    try:
        with folder_for_now(figures):
            try_to_write(figures)
            try_to_write(reports)
    except OSError as error:
        raise InputError(
            f"--reports: {reports} can't be written ({error.strerror}); name another folder"
        ) from error


def check_space(runs: Path, planned: list[Planned], model: Model, keep: bool) -> None:
    """Refuse to begin where the disk can't hold the files of the cells.

    Raises:
        InputError: naming the free and the needed space.
    """
    to_run = sum(item.action == "run" for item in planned)
    per_cell = SPACE_PER_CELL_MIB
    if keep:
        encoders = max((item.cell.encoders or 1 for item in planned), default=1)
        parameters = encoders * count_parameters(model.config, pooler=True, num_outputs=0)
        per_cell += 4 * parameters // 2**20
    needed = SPACE_AT_LEAST_MIB + to_run * per_cell
    if not to_run:
        return
    folder = next(path for path in runs.resolve().parents if path.exists())
    free = shutil.disk_usage(folder).free // 2**20
    if free < needed:
        raise InputError(
            f"{folder}: {free} MiB are free, and {to_run} cells may need {needed} MiB; "
            "free some space, or name another place with --runs"
        )
