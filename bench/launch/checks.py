"""Checks before a run's first cell, so that bad input costs no time.

Functions named `check_…` raise an InputError of one line, which names the setting and what to do;
most lines are in checks.toml beside this file.
`variants` are the settings of a grid's cells.
"""

import math
import os
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Final

from adapters.methods import METHODS
from bench.common.errors import InputError
from bench.common.files import no_link, read_tables, try_to_make
from bench.engines.check import check_checkpoint, check_models
from bench.machine.devices import Device
from bench.plan.cell import (
    DEFAULT,
    FAST,
    FP32,
    HAS_PARTS,
    ITERATIVE,
    MINBERT,
    MULTITASK,
    ON,
    TRANSFORMERS,
    Cell,
    named,
)
from bench.plan.gridfile import AUTO, Grid, Settings
from bench.plan.learning_rates import origin_of
from bench.plan.models import Model
from bench.plan.planning import Planned
from bench.results.facts import facts_of
from bench.results.kept import CAP, keeps_by_default, largest_weights
from minbert.data.metrics import constant
from minbert.data.tasks import Data, Sizes, TaskData
from minbert.data.tokenizer import Tokenizer
from minbert.files import is_folder
from minbert.training.schedules import QUARTERS, layers_in

MSE: Final = "mse"
"""The name in `minbert.training.losses`, which is not imported because it loads torch."""

SPACE_PER_CELL: Final = 2**17
"""Bytes of a cell's folder without weights: a dozen small files, 48 to 80 KiB on a disk."""
SPACE_PER_STEP: Final = 64  # bytes of a line of steps.csv
SPACE_AT_LEAST: Final = 2**26
FEWEST_OF_CURVE: Final = 10  # training examples of a point of a learning curve

_LINES: Final[Mapping[str, str]] = read_tables(__file__, "checks.toml")
_USUAL_STEPS: Final = 100  # those for which default rates are measured (docs/rates.md)


def _refusal(name: str, /, **values: object) -> InputError:
    """The error with a line of checks.toml."""
    return InputError(_LINES[name].format(**values))


def check_amp(cells: Sequence[Cell], grid: Grid, device: Device) -> None:
    """Refuse fp16 on the CPU, and types that a GPU can't compute in."""
    amps = {cell.amp for cell in cells}
    if any(cell.tf32 == ON for cell in cells) and not device.has_tf32:
        name = "the CPU" if device.gpu is None else device.gpu.name
        raise _refusal("tf32", grid=grid.name, name=name)
    if device.gpu is None:
        if "fp16" in amps:
            raise _refusal("fp16", grid=grid.name)
        return
    if failing := min(amps & device.failures.keys(), default=None):
        name, why = device.gpu.name, device.failures[failing]
        raise _refusal("amp", grid=grid.name, name=name, amp=failing, why=why)


def amp_notes(cells: Sequence[Cell], device: Device) -> list[str]:
    """A note if cells train in bf16 and the GPU only emulates it."""
    if device.gpu is None or device.has_bf16 or all(cell.amp != "bf16" for cell in cells):
        return []
    return [_LINES["emulated_bf16"].format(name=device.gpu.name)]


def check_held_out(share: float, data: Data) -> None:
    """Refuse to hold out a share that rounds to no example in any part of the task."""
    for name, size in data.sizes.items():
        if share and not round(share * size.train):
            part = f" of {name}" if data.task.parts else ""
            raise _refusal("held_out", share=share, train=size.train, part=part)


def curve_part(settings: Settings, data: Data, divisor: int) -> TaskData:
    """One of so many parts of the training examples, for a learning curve. Refuses folds, tasks
    with parts, random weights, too few examples, and to lose a class."""
    if settings.folds is not None or settings.init == "random" or not isinstance(data, TaskData):
        raise _refusal("curve")
    part = replace(data, train=data.train.limited(len(data.train) // divisor))
    whole, left = (facts_of(one).class_counts for one in (data, part))
    lost = [name for name, (count, _) in whole.items() if count and not left[name][0]]
    if lost or len(part.train) < FEWEST_OF_CURVE:
        few = f"is {len(part.train)}, fewer than {FEWEST_OF_CURVE}"
        why = f"has none of class {lost[0]!r}" if lost else few
        raise _refusal("curve_of_few", train=len(data.train), why=why)
    check_held_out(settings.share_held_out, part)
    return part


def check_race(settings: Settings, cells: Sequence[Cell], amps: Collection[str] = ()) -> None:
    """Refuse a race with folds or seeds, which its rounds have themselves, with repeats, of random
    weights, of a single setting, of settings whose scores are not compared, or on devices on which
    `amp` on is of several types."""
    for flag in ("folds", "seeds", "repeats"):
        number = getattr(settings, flag) or 1
        if number > 1:
            raise _refusal("race_of_several", flag=flag, number=number)
    if settings.init == "random":
        raise _refusal("race_of_random_weights")
    if len(cells) < 2:
        raise _refusal("race_of_one", name=cells[0].name)
    names = named(lambda about: about.compared in ("group", "never"))
    if differing := [name for name in names if len({getattr(c, name) for c in cells}) > 1]:
        raise _refusal("race_of_groups", names=", ".join(differing))
    if len(amps) > 1:
        raise _refusal("race_of_types", amps=" and ".join(sorted(amps)))


def check_loss(variants: Sequence[Settings], cells: Sequence[Cell], data: Data) -> None:
    """Refuse a regression loss for a task of classes, and a correlation that no batch can have."""
    losses = {settings.regression_loss for settings in variants} - {MSE}
    if losses and (data.task.classes or data.task.plugin):
        labels = f"the problem {data.task.plugin}" if data.task.plugin else "classes"
        raise _refusal("loss_of_classes", loss=min(losses), task=data.task.name, labels=labels)
    cells = [cell for cell in cells if cell.regression_loss not in (None, MSE)]
    if not cells:
        return
    loss = cells[0].regression_loss
    if any(cell.batch_size == 1 for cell in cells):
        raise _refusal("batch_of_one", loss=loss)
    for piece in data.pieces().values():
        if not piece.task.classes and constant(piece.train.labels):
            raise _refusal("equal_labels", loss=loss, task=piece.task.name)


def check_class_settings(variants: Sequence[Settings], data: Data) -> None:
    """Refuse settings of the loss of a class for data in which no text has exactly one, or with
    the loss of a plugin."""
    kinds = {piece.task.kind for piece in data.pieces().values()}
    if not data.task.plugin and kinds & {"classification", "token_classification"}:
        return
    usual, labels = Settings(), "several labels for a text" if "multi_label" in kinds else "numbers"
    if data.task.plugin:
        labels = f"the loss of {data.task.plugin}"
    for settings, name in product(variants, ("label_smoothing", "class_weights")):
        if (value := getattr(settings, name)) != getattr(usual, name):
            raise _refusal(
                "class_setting", name=name, value=value, task=data.task.name, labels=labels
            )


def check_words(cells: Sequence[Cell], data: Data) -> None:
    """Refuse heads on one vector of a text for tags of words, and windows over other texts or
    without room for more tokens than they share."""
    if data.by_word and (heads := {cell.head for cell in cells} - {"linear"}):
        raise _refusal("head_of_words", head=min(heads), task=data.task.name)
    for cell in cells:
        stride, most = cell.window_stride, cell.max_length - 3
        if stride and not data.by_word:
            raise _refusal("windows_of_texts", stride=stride, task=data.task.name)
        if stride > max(most, 0):
            raise _refusal("stride", stride=stride, length=cell.max_length, most=most)


def early_stopping_notes(settings: Settings) -> list[str]:
    """A note on the share that early stopping holds out, if the user did not choose it."""
    if settings.share_held_out == settings.held_out:
        return []
    return [_LINES["early_stopping"].format(share=settings.share_held_out)]


def few_steps_notes(cells: Sequence[Cell], examples: int) -> list[str]:
    """A note on the shortest training if it ends long before the steps that default rates suit."""

    def in_epoch(cell: Cell) -> int:
        return math.ceil(examples / cell.batch_size / cell.gradient_accumulation_steps)

    shortest = min(cells, key=lambda cell: in_epoch(cell) * cell.epochs)
    each = in_epoch(shortest)
    steps, epochs = each * shortest.epochs, math.ceil(_USUAL_STEPS / each)
    if steps >= min(_USUAL_STEPS // 2, shortest.max_steps or math.inf):
        return []
    return [_LINES["few_steps"].format(steps=steps, epochs=epochs, usual=epochs * each)]


def label_notes(data: Data) -> list[str]:
    """Notes on parts of the task whose training or dev labels are all the same."""
    notes = []
    for piece in data.pieces().values():
        for name, labels in (("training", piece.train.labels), ("dev", piece.dev.labels)):
            if labels.ndim == 1 and constant(labels):
                notes.append(f"{piece.task.name}: all {name} labels are {labels[0]:g}")
    return list(dict.fromkeys(notes))


def idle_notes(variants: Sequence[Settings], data: Data) -> list[str]:
    """Notes on settings that have no effect on the data."""
    usual = Settings()
    without_effect = () if data.task.parts else named(lambda about: about.where == HAS_PARTS)
    if not data.regression:
        without_effect = (*without_effect, "regression_loss")
    if data.by_word:
        without_effect = (*without_effect, "pooling")
    given = [n for n in without_effect if any(getattr(v, n) != getattr(usual, n) for v in variants)]
    return [f"without effect on task {data.task.name}: {', '.join(given)}"] if given else []


def check_cells(cells: Sequence[Cell]) -> None:
    """Refuse settings that don't go together in a cell, and layers that engine minbert lacks."""
    for cell in cells:
        if cell.is_compiled and cell.why_not_compiled:
            raise _refusal("compiled", why=cell.why_not_compiled)
        if cell.early_stopping is not None and cell.unfreeze == ITERATIVE:
            raise _refusal("unfreezing")
        if cell.task == MULTITASK and cell.gradient_accumulation_steps > 1:
            raise _refusal("accumulation")


def compile_notes(cells: Sequence[Cell]) -> list[str]:
    """Notes on the cells for which `compile` auto is off, and why."""
    reasons = Counter(c.compile_why for c in cells if not c.is_compiled and c.compile_why)
    are = f"of {len(cells)} cells are not compiled"
    return [f"compile {why}; {number} {are}" for why, number in reasons.items()]


def unfreezing_notes(cells: Sequence[Cell], layers: int) -> list[str]:
    """A note if training ends before the whole model is unfrozen, on the cell that ends first."""
    epochs = min((cell.epochs for cell in cells if cell.unfreeze == ITERATIVE), default=math.inf)
    if epochs > QUARTERS:
        return []
    trained = layers_in(int(epochs) - 1, layers)
    line = _LINES["unfreezing_ends"]
    return [line.format(last=QUARTERS + 1, epochs=epochs, trained=trained, layers=layers)]


def rate_notes(cells: Sequence[Cell]) -> list[str]:
    """A note if default rates, measured at the usual alpha, meet a larger one or rsLoRA."""
    usual = Settings().alpha
    larger = [c for c in cells if c.rank and (c.use_rslora == ON or (c.alpha or 0) > usual)]
    return [_LINES["rates_of_alpha"]] if any(origin_of(c) == "default" for c in larger) else []


def without_idle_caps(grid: Grid, sizes: Collection[Sizes]) -> Grid:
    """The grid without caps that exceed the data, so that reports don't mention them."""
    most = {f"max_{part}": max(getattr(size, part) for size in sizes) for part in ("train", "dev")}
    caps = {name: getattr(grid.settings, name) for name in most}
    idle = {name: None for name, cap in caps.items() if cap is not None and cap > most[name]}
    return grid.model_copy(update={"settings": grid.settings.model_copy(update=idle)})


def check_search(grid: Grid, examples: int, searched: TaskData) -> None:
    """Refuse a search for learning rates if they are given, or if no score can decide them."""
    if any(axes.learning_rate for axes in grid.cells):
        raise _refusal("rates_as_axis", grid=grid.name)
    if grid.settings.init == "random":
        raise _refusal("random_weights")
    if not len(searched.train):
        raise _refusal("few_examples", examples=examples)


def check_model(model: Model, init: str) -> None:
    """Load vocabulary and weights of a model of engine minbert once, before any cell does. Embedded
    ones need no check."""
    if init == "random" and not model.embedded:
        Tokenizer.from_folder(model.tokenizer)
    if init == "pretrained" and model.checkpoint is not None and not model.embedded:
        check_checkpoint(model.checkpoint, model.digest)


def check_engine(
    cells: Sequence[Cell],
    variants: Sequence[Settings],
    model: Model,
    data: Path | None,
    adapter_configs: Mapping[str, str],
) -> None:
    """Refuse what an engine does not have, and build once what engine transformers trains, as
    `bench.engines.check.check_models`."""
    for cell in cells:
        is_minbert = cell.engine == MINBERT
        if why := _why_not_minbert(cell) if is_minbert else _why_not_transformers(cell):
            raise InputError(f"engine {cell.engine}: {_LINES[why].format(**vars(cell))}")
    all_transformers = all(cell.engine == TRANSFORMERS for cell in cells)
    for settings in variants:
        attention = settings.attn_implementation
        is_transformers = (
            all_transformers if settings.engine == AUTO else settings.engine == TRANSFORMERS
        )
        if settings.engine == MINBERT and attention != AUTO:
            raise _refusal("attention", attention=attention)
        if is_transformers and settings.kernels != FAST:
            raise _refusal("kernels", kernels=settings.kernels)
    check_models(cells, model, data, adapter_configs)


def _why_not_minbert(cell: Cell) -> str:
    """The line that says why engine minbert can't run a cell; empty: it can."""
    if cell.mode in METHODS and METHODS[cell.mode].layer is None:
        return "mode_of_peft"
    return "" if cell.init_lora_weights == DEFAULT else "weights_of_peft"


def _why_not_transformers(cell: Cell) -> str:
    """Why engine transformers can't run a cell, whatever the model, as a line; empty: it can."""
    half_attention = cell.attn_implementation == "flash_attention_2" and cell.amp == "off"
    reasons = {
        "parts": cell.task == MULTITASK,
        "mode_of_plugin": cell.plugin is not None,
        "frozen_dtype": cell.frozen_dtype not in (None, FP32),
        "own_head": cell.pooling == "pooler" and cell.head == "nonlinear",
        "half_attention": half_attention,
    }
    return next((name for name, applies in reasons.items() if applies), "")


def check_reports(reports: Path, place: str = "figures") -> None:
    """Test that a report can be written, since that happens hours later. No files remain. `place`
    is the name of the folder of its figures, inside the folder of its pages."""
    figures = reports / place
    for folder in (reports, figures):
        if os.path.lexists(folder) and not is_folder(folder):
            raise InputError(f"--reports: {folder} is a file; name a folder")
    try:
        for folder in (reports, figures):
            no_link(folder)
        for folder in (figures, reports):
            try_to_make(folder)
    except OSError as error:
        raise InputError(
            f"--reports: {reports} can't be written ({error.strerror}); name another folder"
        ) from error


def check_space(
    runs: Path, planned: list[Planned], models: Mapping[str, Model], examples: int, keep: bool
) -> None:
    """Refuse to begin where the disk can't hold the files of the cells, given their models by name,
    the number of training examples, and whether every cell keeps its trained weights."""
    to_run = [item.cell for item in planned if item.action == "run"]
    if not to_run:
        return
    kept = [cell for cell in to_run if keep or keeps_by_default(cell)]
    weights = sum(largest_weights(cell, models[cell.model].config) for cell in kept)
    weights = weights if keep else min(weights, CAP)
    epochs = ((cell, cell.epochs * examples // cell.batch_size) for cell in to_run)
    steps = sum(min(most, cell.max_steps or most) for cell, most in epochs)
    needed = SPACE_AT_LEAST + len(to_run) * SPACE_PER_CELL + steps * SPACE_PER_STEP + weights
    folder = next(path for path in runs.resolve().parents if path.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        free, needed = free // 2**20, math.ceil(needed / 2**20)
        raise _refusal("space", folder=folder, free=free, cells=len(to_run), needed=needed)
