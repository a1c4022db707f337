"""The model, the examples and the cells that a command line selects."""

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Final

from bench.common.errors import InputError
from bench.examples.lengths import find_length
from bench.launch.checks import check_amp, check_model
from bench.machine.conditions import Found
from bench.plan import gridfile
from bench.plan.cell import GRID, Cell
from bench.plan.gridfile import DEFAULT_TASK
from bench.plan.models import Model, check_length, check_ranks, find_model
from bench.plan.planning import Resolved, expand
from bench.plan.selection import parse_selection, select
from minbert.assets.embedded import fetch
from minbert.data.tasks import TaskData, find_task, load_task
from minbert.data.tokenizer import Tokenizer

_SETTINGS: Final = Path(__file__).with_name("settings.toml")
SAME: Final = (
    *("head", "optimizer", "schedule", "regression_loss", "label_smoothing", "class_weights"),
    *("layer_decay", "lora_plus_ratio", "early_stopping"),
)
"""Settings that the baselines support only at our defaults."""


def find(
    grid_file: str | None,
    settings: dict[str, Any],
    data: Path | None,
    selection: str,
    machine: Found,
) -> tuple[Model, TaskData, list[Cell]]:
    """The model, examples and cells that the flags select, checked.

    Raises:
        InputError: if something can't be compared.
    """
    grid = gridfile.load(grid_file or str(_SETTINGS))
    wanted = parse_selection(selection)
    grid = gridfile.with_settings(grid, {"seeds": 1, **settings})
    task = find_task(grid.settings.task or DEFAULT_TASK)
    if task.parts:
        raise InputError(
            f"--task: bench.peers needs a task without parts; choose one of {', '.join(task.parts)}"
        )
    if not task.files and data is None:
        fetch("vader")
    caps = {"max_train": grid.settings.max_train, "max_dev": grid.settings.max_dev}
    examples = load_task(task.name, data, **caps)
    if (most := grid.settings.max_steps) is not None:
        epochs = math.ceil(most * grid.settings.batch_size / len(examples.train))
        grid = gridfile.with_settings(grid, {"epochs": epochs})
    model = find_model(grid.settings.model, grid.settings.init, grid.settings.pooling)
    resolved = Resolved(
        regression=task.kind == "regression",
        model=model.name,
        model_digest=model.digest,
        pooling=model.pooling,
        data_digest=examples.digest[:16],
        amp_on=machine.amp_on,
        learning_rate_source=GRID,
        no_compiling=machine.no_compiling,
    )
    _check_same(grid)
    if grid.has_auto_length:
        longest = model.config.max_position_embeddings
        length, _ = find_length(examples, Tokenizer.from_folder(model.tokenizer), longest)
        resolved = replace(resolved, auto_length=length)
    cells = select(_in_order(grid, resolved), wanted)
    if not cells:
        raise InputError(f"--select: none of the settings to compare has {selection}")
    check_amp(cells, grid, machine.device)
    check_ranks(cells, model.config)
    check_length(cells[0].max_length, model, pairs=examples.train.text_b is not None)
    check_model(model, grid.settings.init)
    return model, examples, cells


def _check_same(grid: gridfile.Grid) -> None:
    """Raise InputError for settings of ours alone, and for axes that cell names do not contain."""
    defaults = gridfile.Settings()
    for settings, name in product(grid.variants, (*SAME, "held_out", "folds", "frozen_dtype")):
        if getattr(settings, name) != getattr(defaults, name):
            raise InputError(
                f"--grid: bench.peers compares only {name} {getattr(defaults, name)}, not "
                f"{getattr(settings, name)}"
            )
    if any("iterative" in axes.unfreeze for axes in grid.cells):
        raise InputError("--grid: bench.peers compares only training without gradual unfreezing")
    if any(axes.batch_size or axes.max_length or axes.learning_rate for axes in grid.cells):
        raise InputError(
            "--grid: bench.peers compares at the batch size, length and learning rates of "
            "settings; leave out the axes batch_size, max_length and learning_rate"
        )


def _in_order(grid: gridfile.Grid, resolved: Resolved) -> list[Cell]:
    """The distinct cells of a grid, in the order of its file, table by table."""

    def position(cell: Cell, axes: gridfile.Axes) -> tuple[int, int, int, bool]:
        layers = axes.layers.index(cell.layers) if cell.layers else 0
        return axes.mode.index(cell.mode), layers, cell.rank or 0, cell.amp != "off"

    by_name: dict[str, Cell] = {}
    for axes in grid.cells:
        cells = expand(grid.model_copy(update={"cells": [axes]}), resolved)
        by_name |= {
            cell.name: cell for cell in sorted(cells, key=lambda cell: position(cell, axes))
        }
    return list(by_name.values())
