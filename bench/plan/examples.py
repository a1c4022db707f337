"""The examples of a cell."""

from pathlib import Path
from typing import TypeVar

from bench.common.errors import InputError
from bench.plan.cell import ON, SEARCHED, Cell
from minbert.data.tasks import Data, Folds, for_race, for_search, load_data, without_searched

_D = TypeVar("_D", Data, Folds)


def unchanged(cell: Cell, data: _D) -> _D:
    """A cell's examples, or their folds. InputError if they are not those it was planned with."""
    if not data.digest.startswith(cell.data_digest):
        raise InputError(
            f"the examples of {cell.task} have changed since the cell was planned; "
            "start the grid again"
        )
    return data


def folds_of(cell: Cell, folder: Path | None) -> Folds:
    """The folds of a cell of a cross-validation, which are without what its learning rates were
    searched on. InputError as `load_data`."""
    data = load_data(cell.task, folder)
    data = without_searched(data) if cell.learning_rate_source == SEARCHED else data
    return Folds(data, cell.folds or 0, cell.max_train, cell.max_dev)


def examples_of(cell: Cell, folder: Path | None) -> Data:
    """The examples that a cell trains and is scored on. InputError as `load_data`."""
    if cell.folds is not None:
        return folds_of(cell, folder).fold(cell.fold)
    data = load_data(cell.task, folder, max_train=cell.max_train, max_dev=cell.max_dev)
    if cell.race == ON:
        return for_race(data, cell.fold)
    return for_search(data) if cell.is_candidate else data
