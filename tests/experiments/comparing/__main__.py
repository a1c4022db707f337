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

Without new repeats the committed ones count, and the page keeps figures of parts that did not run.
"""

import json
import shutil
from math import log, sqrt
from statistics import median

import click
from rich.progress import track

from bench.compare.alternating import look_rounds
from bench.results.rowfile import read_rows
from bench.stats.comparing import nominal_level
from bench.stats.intervals import quantile, wilson
from tests.experiments.comparing import simulations
from tests.experiments.comparing.sides import find_slow, find_work, run_grid
from tests.experiments.pages import DOCS, ROOT, read_json, rewrite, with_tables, write_json

PAGES = (DOCS / "comparing.md", DOCS / "measuring.md")
FIGURES = DOCS / "comparing.json"
REPEATS = DOCS / "repeats.csv"
GRID = DOCS / "repeats.toml"
PARTS = ("aa", "power", "needed", "history", "repeats", "within", "work", "slow")
_NUMBERS = {"collect": 12, "aa": 200, "power": 200, "history": 300, "times": 1000, "slow": 20}
"""How many repeats, draws or trials a part takes."""
_OUT = ROOT / "runs" / "comparing"
_MEASURED = _OUT / "repeats.csv"


@click.command(help=__doc__)
@click.argument("part", type=click.Choice([*_NUMBERS, "work", "page"]))
@click.option("--only-page", is_flag=True, help="Of page: only from the committed figures.")
def main(part, only_page):
    number = _NUMBERS.get(part)
    repeats = read_rows(_MEASURED if _MEASURED.exists() else REPEATS)
    if part == "collect":
        run_grid(ROOT, GRID, _MEASURED, "--repeats", number)
    elif part == "aa":
        worlds = [simulations.Repeats(repeats), *simulations.SCENARIOS]
        _keep(part, (simulations.measure(world, number) for world in track(worlds)))
    elif part == "power":
        _keep(part, simulations.power(number))
        _keep("needed", simulations.needed(number // 2))
    elif part == "history":
        _keep(part, simulations.histories(number))
    elif part == "times":
        _keep("repeats", simulations.of_repeats(repeats))
        _keep("within", simulations.within_a_process(number))
    elif part == "work":
        _keep(part, find_work(_OUT / part))
    elif part == "slow":
        _keep(part, (find_slow(_OUT / part, trial) for trial in range(number)))
    else:
        if not only_page:
            files = {name: _OUT / f"{name}.json" for name in PARTS}
            new = {name: read_json(file) for name, file in files.items() if file.exists()}
            write_json(FIGURES, read_json(FIGURES) | new)
            if _MEASURED.exists():
                shutil.copyfile(_MEASURED, REPEATS)
        for path in PAGES:
            rewrite(path, page, read_json(FIGURES))


def _keep(part, outcomes):
    kept = []
    for outcome in outcomes:
        click.echo(json.dumps(outcome))
        kept.append(outcome)
    _OUT.mkdir(parents=True, exist_ok=True)
    write_json(_OUT / f"{part}.json", kept)


def page(text, figures):
    stds = []  # of a process's log time, from the interval of a trial: one of three comparisons
    for one in figures["slow"]:
        if "low" in one:
            level = nominal_level(0.05 / 3, len(look_rounds(24)))
            half = log(one["high"] / one["low"]) / 2
            rounds = one["rounds"]
            stds.append(float(half * sqrt(rounds / 2) / quantile(level, rounds - 1)))
    decided = [one["decided"] / one["draws"] for one in figures.get("needed", ())]
    return with_tables(
        text, __file__, **figures, stds=stds, decided=decided, wilson=wilson,
        median=lambda values: median(list(values)),
    )  # fmt: skip


if __name__ == "__main__":
    main()
