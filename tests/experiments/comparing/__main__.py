"""Measure how often bench.compare reports a change that is not there, and one that is.

Run the parts `python -m tests.experiments.comparing PART` one by one on an idle machine, then write
the page. A part that is stopped goes on with the same command.

\b
  collect 12 repeats of 4 settings: about 7 minutes
  aa      A/A: splits of these repeats, and simulated rows: 8 minutes
  power   how often a slower step is found, simulated: 10 minutes
  history changes found in histories, simulated: 1 minute
  times   what intervals of times cover: some seconds
  work    20 settings with 5% more work: about 5 minutes
  slow    20 trials of a step that is 10% slower: about 40 minutes
  page    docs/comparing.json, docs/repeats.csv and the tables

Without new repeats the committed ones count, and the page keeps the figures of parts that were not
run.
"""

import json
import shutil
from pathlib import Path

import click
from rich.progress import track

from bench.results.rowfile import read_rows
from tests.experiments.comparing import figures, simulations
from tests.experiments.comparing.alarms import SCENARIOS, Repeats, measure
from tests.experiments.comparing.sides import ROOT, find_slow, find_work, run_grid

_NUMBERS = {
    "collect": 12,
    "aa": 200,
    "power": 200,
    "history": 300,
    "times": 1000,
    "slow": 20,
}
"""How many repeats, draws or trials a part takes."""


@click.command(help=__doc__)
@click.argument("part", type=click.Choice([*_NUMBERS, "work", "page"]))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=ROOT / "runs" / "comparing",
    help="Folder of what is measured; runs/comparing by default.",
)
@click.option("--select", default="", help="Only cells that match, as in bench.grid.")
@click.option("--number", type=int, help=f"Repeats, draws or trials; by default {_NUMBERS}.")
@click.option("--rounds", default=24, show_default=True, help="The most rounds of a trial of slow.")
@click.option("--only-page", is_flag=True, help="Of page: only from the committed figures.")
def main(part, out, select, number, rounds, only_page):
    number = number or _NUMBERS.get(part, 0)
    measured = out / "repeats.csv"
    if part == "collect":
        options = ["--repeats", str(number), *(["--select", select] if select else [])]
        run_grid(ROOT, figures.GRID, measured, options)
    elif part == "aa":
        worlds = [Repeats(_repeats(measured)), *SCENARIOS]
        _keep(out, part, (measure(world, number) for world in track(worlds)))
    elif part == "power":
        _keep(out, part, simulations.power(number))
        _keep(out, "needed", simulations.needed(number // 2))
    elif part == "history":
        _keep(out, part, simulations.histories(number))
    elif part == "times":
        _keep(out, "repeats", simulations.of_repeats(_repeats(measured)))
        _keep(out, "within", simulations.within_a_process(number))
    elif part == "work":
        _keep(out, part, find_work(out / part, select))
    elif part == "slow":
        _keep(out, part, (find_slow(out / part, trial, rounds) for trial in range(number)))
    else:
        _write_page(out, None if only_page else measured)


def _write_page(out, measured):
    """Write the tables, and before that, with measured repeats, the figures."""
    if measured is not None:
        files = {name: out / f"{name}.json" for name in figures.PARTS}
        new = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
        parts = json.dumps({**figures.read_figures(), **new}, indent=1)
        figures.FIGURES.write_text(parts + "\n", encoding="utf-8")
        if measured.exists():
            shutil.copyfile(measured, figures.REPEATS)
    for path in figures.PAGES:
        text = path.read_text(encoding="utf-8")
        path.write_text(figures.page(text, figures.read_figures()), encoding="utf-8")


def _repeats(path):
    """The measured repeats; without new ones the committed ones."""
    return read_rows(path if path.exists() else figures.REPEATS)


def _keep(out, part, outcomes):
    """Print outcomes as they come, and write them once all are there."""
    kept = []
    for outcome in outcomes:
        click.echo(json.dumps(outcome))
        kept.append(outcome)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{part}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
