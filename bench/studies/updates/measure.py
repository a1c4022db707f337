"""Spectra of the updates of cells, and scores of cells with their updates cut to some ranks."""

import os
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Final

from bench.common.errors import InputError
from bench.common.progress import progress_bar
from bench.machine.conditions import Conditions
from bench.machine.environment import BY_BUS, ORDER, VISIBLE
from bench.plan.models import Model
from bench.results.origins import model_of
from bench.studies.updates.cells import Trained
from bench.studies.updates.modules import Update
from bench.studies.updates.truncation import Truncation
from minbert.data.tasks import Data

_WITHOUT: Final = "name other results with --runs"


def measure_all(
    cells: Sequence[Trained],
    cut: Sequence[Trained],
    examples: Mapping[str, Data],
    folders: Mapping[str, Path | None],
    ranks: Sequence[int],
) -> tuple[list[Update], list[Truncation]]:
    """The spectra of all cells, and the scores of the cells to cut.

    Args:
        examples: of the cells to cut, by name; `folders`: where they are from.
    """
    bases: dict[object, Model] = {}
    for cell in cells:
        if cell.row.model_digest not in bases:
            bases[cell.row.model_digest] = model_of(cell.row, cell.folder, _WITHOUT)
    conditions = _conditions(cut)
    # These load torch, for which bad input need not wait.
    from bench.studies.updates.truncate import truncate
    from bench.studies.updates.weights import Known, measure

    known: Known = {}
    with progress_bar(len(cells) + len(cut) * (len(ranks) + 1)) as show:
        done = count()
        updates = []
        for cell in cells:
            show(next(done), cell.name)
            updates.append(measure(cell, bases[cell.row.model_digest], known))
        truncations = [
            truncate(
                cell,
                bases[cell.row.model_digest],
                ranks,
                examples[cell.name],
                folders[cell.name],
                conditions[cell.name],
                lambda step: show(next(done), step),
            )
            for cell in cut
        ]
    return updates, truncations


def _conditions(cut: Sequence[Trained]) -> dict[str, Conditions]:
    """The conditions in which to predict with each cell to cut: on a CPU for cells from a CPU.

    If a GPU was tried, this process sees only that one from now on.

    Raises:
        InputError: if a GPU is needed and can't be used, or fp16 is needed without a GPU.
    """
    from bench.machine.conditions import find_conditions

    devices = {cell.name: "cpu" if cell.row.device == "cpu" else "auto" for cell in cut}
    machines = {device: find_conditions(device) for device in dict.fromkeys(devices.values())}
    for machine in machines.values():
        if machine.gpu:
            os.environ.update({VISIBLE: machine.gpu, ORDER: BY_BUS})
    conditions = {name: machines[device].conditions for name, device in devices.items()}
    for cell in cut:
        if cell.cell.amp == "fp16" and conditions[cell.name].device == "cpu":
            raise InputError(f"--truncate: {cell.name} predicts in fp16, which needs a GPU")
    return conditions
