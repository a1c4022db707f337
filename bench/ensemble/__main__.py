"""An ensemble of cells that have run, chosen on training data that was held out, scored on dev.

Example: python -m bench.ensemble --runs runs.csv --task movies
"""

import json
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from bench.command import run_command
from bench.ensemble.members import find
from bench.ensemble.outcome import Outcome, Scored, ensemble_of
from bench.errors import InputError
from bench.report.text import span
from bench.stats import Interval
from bench.store import read_rows
from minbert.ensemble import AVERAGES

_MOST: Final = 25
_EPILOG: Final = """\b
Examples:
  python -m bench.ensemble --runs runs.csv
  python -m bench.ensemble --runs runs.csv --task sst --average logits --json
"""


@click.command("python -m bench.ensemble", help=__doc__.partition("\n\n")[0], epilog=_EPILOG)
@click.option(
    "--runs", default="runs.csv", show_default=True, type=click.Path(path_type=Path),
    help="Results whose cells are members.",
)  # fmt: skip
@click.option("--task", help="Which of the tasks in it.")
@click.option("--average", type=click.Choice(AVERAGES), default="probabilities", show_default=True)
@click.option(
    "--most", type=click.IntRange(1, 1000), default=_MOST, show_default=True,
    help="Members at most, each as often as it counts.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(runs: Path, task: str | None, average: str, most: int, as_json: bool) -> int:
    if not runs.is_file():
        raise InputError(f"{runs}: no such file of results; name one with --runs")
    candidates = find(runs, read_rows(runs), task)
    found = ensemble_of(candidates, average, most)
    if as_json:
        click.echo(json.dumps(_as_json(candidates.task, candidates.metric, found), indent=2))
    else:
        _print(candidates.task, candidates.metric, len(candidates.members), found)
    return 0


def _as_json(task: str, metric: str, found: Outcome) -> dict[str, Any]:
    def scored(of: Scored) -> dict[str, Any]:
        return {
            "name": of.name, "dev_score": of.dev.value, "dev_ci_low": of.dev.low,
            "dev_ci_high": of.dev.high, "held_score": of.held, "parameters": of.parameters,
        }  # fmt: skip

    gain = found.gain
    return {
        "task": task, "metric": metric, "average": found.average,
        "ensemble": scored(found.ensemble), "best_member": scored(found.best),
        "gain": {"value": gain.value, "low": gain.low, "high": gain.high},
        "members": [
            {"name": member.name, "cell_id": member.row["cell_id"], "weight": weight}
            for member, weight in found.members
        ],
    }  # fmt: skip


def _print(task: str, metric: str, count: int, found: Outcome) -> None:
    console = Console(highlight=False)
    table = Table(box=None)
    for head in ("", f"dev {metric}", "95% interval", "held out", "parameters"):
        table.add_column(head, justify="right" if head else "left")
    for of in (found.ensemble, found.best):
        table.add_row(
            of.name, f"{of.dev.value:.3f}", _told(of.dev), f"{of.held:.3f}", f"{of.parameters:,}"
        )
    console.print(f"{task}: the average of {found.average}, members chosen among {count} cells")
    console.print(table)
    for member, weight in found.members:
        console.print(f"  {weight} × {member.name}")
    gain = found.gain
    console.print(f"against the best member alone: {gain.value:+.3f} ({_told(gain)})")


def _told(interval: Interval) -> str:
    return span(interval, lambda value: f"{value:.3f}") or "no interval"


if __name__ == "__main__":
    run_command(command)
