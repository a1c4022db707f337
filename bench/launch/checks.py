"""What is checked before a run's first cell, so that bad input costs nothing. Each is one line."""

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
"""As `minbert.training.losses` has it, which imports torch."""

SPACE_PER_CELL_MIB: Final = 2
SPACE_AT_LEAST_MIB: Final = 64
_OF_PARTS: Final = ("encoders", "task_order", "task_rates", "task_decays")
"""Settings of a task with parts alone."""


def check_amp(cells: Sequence[Cell], grid: Grid, device: Device) -> None:
    """Refuse fp16 where there is no GPU to scale gradients for, and what a GPU can't compute in.

    Raises:
        InputError: naming the grid.
    """
    wanted = {cell.amp for cell in cells}
    if device.gpu is None:
        if "fp16" in wanted:
            raise InputError(f"grid {grid.name}: amp fp16 needs a GPU; on the CPU take bf16 or on")
        return
    if failing := min(wanted & device.failures.keys(), default=None):
        raise InputError(
            f"grid {grid.name}: {device.gpu.name} can't compute in amp {failing} "
            f"({device.failures[failing]}); leave those cells out with --select"
        )


def amp_notes(cells: Sequence[Cell], device: Device) -> list[str]:
    """A line on bf16 that the GPU emulates, if cells train in it."""
    if device.gpu is None or device.has_bf16 or all(cell.amp != "bf16" for cell in cells):
        return []
    return [
        f"amp bf16: {device.gpu.name} has no bf16 units, so torch emulates them, and times say "
        "nothing about a GPU that has them; amp on is fp16 here"
    ]


def check_head(cells: Sequence[Cell], keep: bool) -> None:
    """Refuse to keep whole models whose head has no place in a checkpoint.

    Those of a task with parts are kept as plain tensors, which have a place for all heads.

    Raises:
        InputError: naming the head.
    """
    whole = [cell.head for cell in cells if cell.layers is None and cell.encoders is None]
    head = next((head for head in whole if head != "linear"), None)
    if keep and head is not None:
        raise InputError(
            f"--save-weights: a checkpoint has no place for the head {head}; take head linear, "
            'or only cells with adapters: --select "mode=lora,dora"'
        )


def check_held_out(share: float, data: Data) -> None:
    """Refuse to hold out a share of so few training examples, of any part, that it is none.

    Raises:
        InputError: naming the share.
    """
    for name, size in data.sizes.items():
        if share and not round(share * size.train):
            of = f" of {name}" if data.task.parts else ""
            raise InputError(
                f"held_out {share:g} of {size.train} training examples{of} is none; hold out more, "
                "or nothing"
            )


def check_loss(variants: Sequence[Settings], cells: Sequence[Cell], data: Data) -> None:
    """Refuse a loss of numbers for a task of classes, and a correlation where no batch has one.

    Args:
        variants: the settings of the cells' grid.

    Raises:
        InputError: naming the loss, and what it does not go with.
    """
    losses = {settings.regression_loss for settings in variants} - {MSE}
    if not losses:
        return
    told = f"regression_loss {min(losses)}: "
    if data.task.classes:
        raise InputError(f"{told}task {data.task.name} has classes; leave it out")
    cells = [cell for cell in cells if cell.regression_loss in losses]
    if data.regression and any(cell.batch_size == 1 for cell in cells):
        raise InputError(
            f"{told}a batch of 1 example has no correlation; take batches of at least 2, or {MSE}"
        )
    for name, of in _examples(data).items() if cells else ():
        if not of.task.classes and constant(of.train.labels):
            raise InputError(
                f"{told}{_alike(name, of, of.train.labels, 'training')}, which have no "
                f"correlation; take other data, or {MSE}"
            )


def label_notes(data: Data) -> list[str]:
    """What there is to say of labels that are all the same, of any part: of those to train on,
    that nothing can be learned, and of those of dev, what that does to the score."""
    found = []
    for name, of in _examples(data).items():
        if constant(of.train.labels):
            alike = _alike(name, of, of.train.labels, "training")
            found.append(f"{alike}, so there is nothing to learn")
        if constant(of.dev.labels):
            alike = _alike(name, of, of.dev.labels, "dev")
            by_class = ", so its accuracy is of one class alone"
            by_number = ", which have no correlation, so there is no score"
            found.append(alike + (by_class if of.task.classes else by_number))
    return found


def _examples(data: Data) -> Mapping[str, TaskData]:
    """The examples of each part, or of the task itself; of pairs the second texts stand for both,
    with the same labels."""
    return {of.task.name: of for of in data.pieces().values()}


def _alike(name: str, of: TaskData, labels: NDArray[Any], side: str) -> str:
    """`sts: all 12 dev labels are 3.8`, of labels that are all the same."""
    label = float(labels[0])
    meant = f" ({of.task.classes[int(label)]})" if of.task.classes else ""
    return f"{name}: all {len(labels)} {side} labels are {label:g}{meant}"


def idle_notes(variants: Sequence[Settings], cells: Sequence[Cell], data: Data) -> list[str]:
    """What there is to say of settings that are given and that data or cells have no use for.

    Args:
        variants: the settings of the cells' grid.
    """
    found = [note for settings in variants for note in _idle(settings, data)]
    wanted = {settings.frozen_dtype for settings in variants} - {FP32}
    if wanted and all(cell.frozen_dtype in (None, FP32) for cell in cells):
        found.append(f"frozen_dtype {min(wanted)}: no cell with it has frozen weights under AMP")
    return list(dict.fromkeys(found))


def _idle(settings: Settings, data: Data) -> list[str]:
    usual, found = Settings(), []
    given = [name for name in _OF_PARTS if getattr(settings, name) != getattr(usual, name)]
    if given and not data.task.parts:
        found.append(f"without effect on task {data.task.name}: {', '.join(given)}")
    if data.task.parts and settings.encoders > most_encoders(data.sizes):
        found.append(f"encoders {settings.encoders}: there is one, as of {', '.join(data.sizes)}")
    if settings.regression_loss != usual.regression_loss and not data.regression:
        found.append(f"regression_loss {settings.regression_loss}: no part that is there has it")
    return found


def check_compile(cells: Sequence[Cell]) -> None:
    """Refuse to compile training steps that are of several kinds: each would be other code.

    Raises:
        InputError: naming what makes them so.
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
    """What there is to say of cells that end before all of their model is unfrozen, by their
    epochs or by their steps: of that which ends first.

    Args:
        layers: of the encoder.
    """
    epochs = min((_epochs(c, data) for c in cells if c.unfreeze == ITERATIVE), default=QUARTERS + 1)
    if epochs > QUARTERS:
        return []
    return [
        f"unfreezing ends in epoch {QUARTERS + 1}, and training in epoch {epochs}: "
        f"{layers_in(epochs - 1, layers)} of {layers} layers train, and no embeddings"
    ]


def _epochs(cell: Cell, data: Data) -> int:
    """In which epoch, from 1, a cell's training ends."""
    if cell.max_steps is None:
        return cell.epochs
    kept = (size.train - round(cell.held_out * size.train) for size in data.sizes.values())
    steps = sum(math.ceil(count / cell.batch_size) for count in kept)
    return min(cell.epochs, math.ceil(cell.max_steps / steps))


def without_idle_caps(grid: Grid, data: Data) -> Grid:
    """Drop caps that are above what there is, so that reports don't tell of them."""
    sizes = {
        "max_train": max(size.train for size in data.sizes.values()),
        "max_dev": max(size.dev for size in data.sizes.values()),
    }
    caps = {name: getattr(grid.settings, name) for name in sizes}
    idle = {name: None for name, cap in caps.items() if cap is not None and cap > sizes[name]}
    return grid.model_copy(update={"settings": grid.settings.model_copy(update=idle)})


def check_search(grid: Grid, examples: int, searched: TaskData) -> None:
    """Refuse a search for learning rates that has nothing to go by, or that are given.

    Args:
        examples: how many there are to train on.
        searched: those that the search is left with.

    Raises:
        InputError: saying what it lacks.
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
    """Load vocabulary and weights once, before any cell does; the embedded ones are pinned.

    Raises:
        InputError: as the worker would, for every cell.
    """
    if init == "random" and not model.embedded:
        Tokenizer.from_folder(model.tokenizer)
    if init == "pretrained" and model.checkpoint is not None and not model.embedded:
        check_checkpoint(model.checkpoint, model.digest)


def check_reports(reports: Path, place: str = "figures") -> None:
    """Try whether a report can be written, and leave nothing behind: it comes hours later.

    Args:
        place: the folder of its figures, in that of its pages.

    Raises:
        InputError: if not.
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
    """Refuse to begin where the disk can't hold what the cells leave.

    Raises:
        InputError: naming what is free and what is needed.
    """
    to_run = sum(item.action == "run" for item in planned)
    each = SPACE_PER_CELL_MIB
    if keep:
        encoders = max((item.cell.encoders or 1 for item in planned), default=1)
        each += encoders * 4 * count_parameters(model.config, pooler=True, num_outputs=0) // 2**20
    needed = SPACE_AT_LEAST_MIB + to_run * each
    if not to_run:
        return
    folder = next(path for path in runs.resolve().parents if path.exists())
    free = shutil.disk_usage(folder).free // 2**20
    if free < needed:
        raise InputError(
            f"{folder}: {free} MiB are free, and {to_run} cells may need {needed} MiB; "
            "free some space, or name another place with --runs"
        )
