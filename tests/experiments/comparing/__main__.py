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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from rich.progress import track

from bench.plan.rows import Row
from bench.results.rowfile import read_rows
from tests.experiments.comparing import changes, coverage, figures
from tests.experiments.comparing import power as found
from tests.experiments.comparing.alarms import SCENARIOS, Repeats, Simulated, measure
from tests.experiments.comparing.detection import find_slow, find_work
from tests.experiments.comparing.sides import ROOT, run_grid

_out = click.option(
    "--out", type=click.Path(path_type=Path), default=ROOT / "runs" / "comparing",
    help="Folder of what is measured; runs/comparing by default.",
)  # fmt: skip
_select = click.option("--select", default="", help="Only cells that match, as in bench.grid.")


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command(help="Measure real repeats.")
@_out
@_select
@click.option("--repeats", default=12, show_default=True)
def collect(out: Path, select: str, repeats: int) -> None:
    options = ["--repeats", str(repeats), *(["--select", select] if select else [])]
    run_grid(ROOT, figures.GRID, out / "repeats.csv", options)


@main.command(help="Compare what is the same.")
@_out
@click.option("--draws", default=200, show_default=True)
def aa(out: Path, draws: int) -> None:
    worlds: list[Repeats | Simulated] = [Repeats(_repeats(out)), *SCENARIOS]
    _keep(out, "aa", (measure(world, draws) for world in track(worlds)))


@main.command(help="Find slower steps in simulation.")
@_out
@click.option("--draws", default=200, show_default=True)
def power(out: Path, draws: int) -> None:
    _keep(out, "power", found.power(draws))
    _keep(out, "needed", found.needed(draws // 2))


@main.command(help="Find changes in simulated histories.")
@_out
@click.option("--draws", default=300, show_default=True)
def history(out: Path, draws: int) -> None:
    _keep(out, "history", changes.histories(draws))


@main.command(help="Count what intervals of times cover.")
@_out
@click.option("--draws", default=1000, show_default=True)
def times(out: Path, draws: int) -> None:
    _keep(out, "repeats", coverage.of_repeats(_repeats(out)))
    _keep(out, "within", coverage.within_a_process(draws))


@main.command(help="Find more work by counts.")
@_out
@_select
def work(out: Path, select: str) -> None:
    _keep(out, "work", find_work(out / "work", select))


@main.command(help="Find slower steps by time.")
@_out
@click.option("--trials", default=20, show_default=True)
@click.option("--rounds", default=24, show_default=True, help="The most rounds of a trial.")
def slow(out: Path, trials: int, rounds: int) -> None:
    _keep(out, "slow", (find_slow(out / "slow", number, rounds) for number in range(trials)))


@main.command(help="Write the figures and the table.")
@_out
@click.option("--only-page", is_flag=True, help="Only the table, from the committed figures.")
def page(out: Path, only_page: bool) -> None:
    if not only_page:
        files = {name: out / f"{name}.json" for name in figures.PARTS}
        new = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
        parts = json.dumps({**figures.read_figures(), **new}, indent=1)
        figures.FIGURES.write_text(parts + "\n", encoding="utf-8")
        if (out / "repeats.csv").exists():
            shutil.copyfile(out / "repeats.csv", figures.REPEATS)
    for path in figures.PAGES:
        text = path.read_text(encoding="utf-8")
        path.write_text(figures.page(text, figures.read_figures()), encoding="utf-8")


def _repeats(out: Path) -> list[Row]:
    """The measured repeats; without new ones the committed ones."""
    path = out / "repeats.csv"
    return read_rows(path if path.exists() else figures.REPEATS)


def _keep(out: Path, part: str, outcomes: Iterable[Mapping[str, Any]]) -> None:
    """Print outcomes as they come, and write them once all are there."""
    kept = []
    for outcome in outcomes:
        click.echo(json.dumps(outcome))
        kept.append(outcome)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{part}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
