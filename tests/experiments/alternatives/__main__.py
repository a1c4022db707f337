"""Classify texts by this project and by what people use, with the same wall time, and write
docs/alternatives.md; with PART `pages` only that. Runs that have a row are not run again: it can
take at most 63 hours in all, and can be made in parts. To run one again, delete its row.

Example: python -m tests.experiments.alternatives --way quick --way tfidf --labels 100
"""

import signal
import sys
from itertools import product
from pathlib import Path

import click

from bench.common.command import run_command
from bench.common.errors import InputError
from bench.common.progress import progress_bar
from tests.components import CS224N
from tests.experiments import alternatives as runs
from tests.experiments.alternatives.running import run_way
from tests.experiments.pages import rewrite

_PATH = click.Path(path_type=Path)


def _some(flag, values):
    text = "Only this one; may be given several times."
    choice = click.Choice([*values])
    return click.option(flag, multiple=True, default=[*values], type=choice, help=text)


@click.command(help=__doc__)
@click.argument("part", required=False, type=click.Choice(["pages"]))
@_some("--task", runs.TASKS)
@_some("--way", runs.WAYS)
@_some("--labels", runs.LABELS)
@_some("--seed", runs.SEEDS)
@click.option("--minutes", default=runs.MINUTES, show_default=True, help="Wall time of a run.")
@click.option("--rows", default=runs.ROWS, type=_PATH, help="Where rows are kept.")
@click.option("--data", default=CS224N, type=_PATH, help="The folder with the files of quora.")
@click.option("--folder", default="runs/alternatives", show_default=True, type=_PATH)
def main(part, rows, folder, minutes, data, **some):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it ends the run's processes
    if not part:
        keys = [*product(some["seed"], some["task"], some["labels"], some["way"])]
        run_missing(keys, rows, data, folder.resolve(), minutes)
    if rows == runs.ROWS:
        rewrite(runs.PAGE, runs.page)


def run_missing(keys, path, data, folder, minutes):
    rows = runs.read_csv(path)
    if {row["minutes"] for row in rows} - {str(minutes)}:
        raise InputError(f"{path} has rows of another time than --minutes {minutes:g}; use --rows")
    missing = [key for key in keys if key not in {*map(runs.key_of, rows)}]
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar(len(missing)) as show:
        for number, (seed, task, labels, way) in enumerate(missing):
            left = runs.hours_left(missing[number:], runs.read_csv(path), minutes)
            name = f"{task}, {labels} labels, {way}, seed {seed}"
            show(number, f"{name}; at most {left:.1f} h left")
            answers = runs.write_files(runs.split(task, data), labels, seed, folder)
            row, right = run_way(way, seed, answers, folder, minutes)
            runs.keep(path, row | {"task": task, "labels": labels}, right)
            click.echo(f"{name}: {row['score'] or row['status']} {row['reason'] or row['note']}")


if __name__ == "__main__":
    run_command(main, "python -m tests.experiments.alternatives")
