"""The changes that training made to a model's weights, and whether they have low rank: singular
values of each linear layer's update, for cells that have kept their weights.

Examples:
  python -m bench.updates
  python -m bench.updates --runs full.csv adapters.csv --csv updates.csv --reports reports/
  python -m bench.updates --truncate 0,1,5,8,10,32
  python -m bench.updates --runs sst.csv --truncate 0,1,8 --data path/to/data --json
"""

import os
from collections.abc import Sequence
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any

from bench.common.command import described, options_in, run_command, with_runs
from bench.common.errors import InputError
from bench.common.grouping import grouped
from bench.common.progress import progress_bar
from bench.machine.conditions import Conditions
from bench.machine.environment import BY_BUS, ORDER, VISIBLE
from bench.results.origins import data_folder, examples_of, model_of, task_of
from bench.studies.outputs import Study, with_outputs
from bench.studies.updates.cells import KeptCell, Truncation, Update, find, parse_ranks, rows_of


@described(__doc__)
@with_runs("Results files whose cells have kept their weights, one or several.")
@options_in(__file__, "updates.toml")
@with_outputs("updates", "each cell and layer")
def command(runs: list[Path], truncate: str | None, data: Path | None) -> Study:
    if data is not None and truncate is None:
        raise InputError("--data: is for --truncate, which scores on dev; leave it out")
    ranks = None if truncate is None else parse_ranks(truncate)
    cells, notes = find(runs)
    cut = []
    if ranks is not None:
        whole = [cell for cell in cells if cell.whole]
        cut = [cell for cell in whole if cell.row.dev_score is not None]
        if not cut:
            raise InputError(
                "--truncate: no cell of full fine-tuning has kept its weights and has a dev score; "
                'run some with --save-weights --rerun ok --select "mode=full", or leave it out'
            )
        notes += [
            f"not cut: {cell.label}, which has no dev score" for cell in whole if cell not in cut
        ]
    every_update, truncations = _measure_all(cells, cut, data, ranks or ())
    updates = [update for update in every_update if update.modules]
    unmoved = [update.cell.label for update in every_update if not update.modules]
    if not updates:
        raise InputError(f"{', '.join(unmoved)}: no linear layer of the encoder trained")
    notes += [f"left out: {name}, of which no linear layer trained" for name in unmoved]
    notes += dict.fromkeys(note for cell in cut for note in task_of(cell.row, cell.folder).notes)
    rows, errors = rows_of(updates), [one.problem for one in truncations if one.problem]

    from bench.report.tables import print_tables
    from bench.studies.updates import tables

    def to_json() -> dict[str, Any]:
        truncated = [cell.as_json() for cell in truncations]
        values = {"cells": tables.as_json(updates), "truncated": truncated}
        return values | {"notes": notes, "problems": errors, "rows": rows}

    def show() -> None:
        lines = [*tables.findings(updates, truncations), *tables.explanations(updates)]
        lines += [f"note: {note}" for note in notes]
        print_tables(tables.tables(updates, truncations), lines)

    facts = partial(tables.facts, updates, truncations, notes)
    return Study(rows, to_json, show, facts, errors)


def _measure_all(
    cells: Sequence[KeptCell], cut: Sequence[KeptCell], data: Path | None, ranks: Sequence[int]
) -> tuple[list[Update], list[Truncation]]:
    """The spectra of all cells, and the scores of the cells to cut, on tasks of a folder of data
    unless they are embedded. InputError if weights, checkpoints or examples are missing or have
    changed, or a GPU is needed and can't be used."""
    folders = [data_folder(cell.row, cell.folder, data) for cell in cut]
    if data is not None and not any(folders):
        raise InputError("--data: no task of these cells is read from a folder; leave it out")
    examples = [examples_of(cell.row, folder) for cell, folder in zip(cut, folders, strict=True)]
    bases = {
        digest: model_of(first.row, first.folder, "name other results with --runs")
        for digest, (first, *_) in grouped(cells, lambda cell: cell.row.model_digest).items()
    }
    conditions = _conditions(cut)
    # These load torch, for which bad input need not wait.
    from bench.studies.updates.weights import Known, measure, truncate

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


if __name__ == "__main__":
    run_command(command)
