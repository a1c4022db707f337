"""Spectra of the updates of cells, and scores of cells with their updates cut to some ranks."""

import os
from collections.abc import Sequence
from functools import cache
from itertools import count
from pathlib import Path
from typing import Final

from bench.common.errors import InputError
from bench.common.progress import progress_bar
from bench.machine.conditions import Conditions
from bench.machine.environment import BY_BUS, ORDER, VISIBLE
from bench.plan.models import Model
from bench.results.origins import data_folder, examples_of, model_of
from bench.studies.updates.cells import KeptCell
from bench.studies.updates.modules import Update
from bench.studies.updates.truncation import Truncation

_WITHOUT: Final = "name other results with --runs"


def measure_all(
    cells: Sequence[KeptCell], cut: Sequence[KeptCell], data: Path | None, ranks: Sequence[int]
) -> tuple[list[Update], list[Truncation]]:
    """The spectra of all cells, and the scores of the cells to cut, on tasks of a folder of data
    unless they are embedded.

    Raises:
        InputError: if weights, checkpoints or examples are missing or have changed, or a GPU is
            needed and can't be used.
    """
    folders = [data_folder(cell.row, cell.folder, data) for cell in cut]
    if data is not None and not any(folders):
        raise InputError("--data: no task of these cells is read from a folder; leave it out")
    examples = [examples_of(cell.row, folder) for cell, folder in zip(cut, folders, strict=True)]
    bases: dict[object, Model] = {}
    for cell in cells:
        if cell.row.model_digest not in bases:
            bases[cell.row.model_digest] = model_of(cell.row, cell.folder, _WITHOUT)
    conditions = _conditions(cut)
    # These load torch, for which bad input need not wait.
    from bench.studies.updates.truncate import truncate
    from bench.studies.updates.weights import Known, measure

    known: Known = {}
    updates, truncations = [], []
    with progress_bar(len(cells) + len(cut) * (len(ranks) + 1)) as show:
        done = count()
        for cell in cells:
            show(next(done), cell.label)
            updates.append(measure(cell, bases[cell.row.model_digest], known))
        for cell, own, folder, here in zip(cut, examples, folders, conditions, strict=True):
            base = bases[cell.row.model_digest]
            truncations.append(
                truncate(cell, base, ranks, own, folder, here, lambda step: show(next(done), step))
            )
    return updates, truncations


def _conditions(cut: Sequence[KeptCell]) -> list[Conditions]:
    """The conditions in which to predict with each cell to cut: on a CPU for cells from a CPU. If a
    GPU was tried, this process sees only that one from now on."""
    from bench.machine.conditions import find_conditions

    machine_with = cache(find_conditions)
    conditions = []
    for cell in cut:
        machine = machine_with("cpu" if cell.row.device == "cpu" else "auto")
        if machine.gpu:
            os.environ.update({VISIBLE: machine.gpu, ORDER: BY_BUS})
        if cell.row.amp == "fp16" and machine.conditions.device == "cpu":
            raise InputError(f"--truncate: {cell.label} predicts in fp16, which needs a GPU")
        conditions.append(machine.conditions)
    return conditions
