"""The changes that training made to a model's weights, and whether they have low rank: singular
values of each linear layer's update, for cells that have kept their weights.

Example: python -m bench.updates --runs runs.csv --reports reports/
"""

from functools import partial
from pathlib import Path
from typing import Final

import click

from bench.common.command import FILE, options_in, run_command, with_runs
from bench.common.errors import InputError
from bench.results.origins import task_of
from bench.studies.outputs import Study, with_outputs
from bench.studies.updates.cells import find
from bench.studies.updates.measure import measure_all
from bench.studies.updates.modules import COLUMNS, rows_of
from bench.studies.updates.truncation import parse_ranks, problems

_EPILOG: Final = """\b
Examples:
  python -m bench.updates
  python -m bench.updates --runs full.csv adapters.csv --csv updates.csv --reports reports/
  python -m bench.updates --truncate 0,1,5,8,10,32
  python -m bench.updates --runs sst.csv --truncate 0,1,8 --data path/to/data --json
"""


@click.command(help=__doc__.partition("\n\n")[0], epilog=_EPILOG)
@with_runs("Results files whose cells have kept their weights, one or several.")
@options_in(Path(__file__).with_name("options.toml"), {"path": FILE})
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
    every_update, truncations = measure_all(cells, cut, data, ranks or ())
    updates = [update for update in every_update if update.modules]
    unmoved = [update.cell.label for update in every_update if not update.modules]
    if not updates:
        raise InputError(f"{', '.join(unmoved)}: no linear layer of the encoder trained")
    notes += [f"left out: {name}, of which no linear layer trained" for name in unmoved]
    notes += dict.fromkeys(note for cell in cut for note in task_of(cell.row, cell.folder).notes)
    rows, errors = rows_of(updates), problems(truncations)

    from bench.report.show import as_json, print_tables
    from bench.studies.updates import page, tables

    def to_json() -> str:
        more = {
            "cells": tables.as_json(updates),
            "truncated": [cell.as_json() for cell in truncations],
            "notes": notes,
            "problems": errors,
        }
        return as_json(rows, more)

    def show() -> None:
        lines = [*tables.findings(updates, truncations), *tables.explanations(updates)]
        lines += [f"note: {note}" for note in notes]
        print_tables(tables.tables(updates, truncations), lines)

    facts = partial(page.facts, updates, truncations, notes)
    return Study(COLUMNS, rows, to_json, show, facts, errors)


if __name__ == "__main__":
    run_command(command)
