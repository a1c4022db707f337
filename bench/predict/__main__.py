"""How well memory and time are predicted, on cells that the fit has not seen.

Example: python -m bench.predict --check runs.csv
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from bench.cell import Cell
from bench.command import run_command
from bench.conditions import Conditions, find_conditions
from bench.errors import InputError
from bench.groups import Group, groups
from bench.models import find_model
from bench.predict.check import Check, checks
from bench.predict.client import NoPredictionError
from bench.predict.forecast import Forecast
from bench.predict.prepare import make_forecast
from bench.schema import Row
from bench.store import read_rows

_FEWEST: Final = 5
"""Settings that ended ok, below which there is nothing to check."""

_EPILOG: Final = """\b
Examples:
  python -m bench.predict --check runs.csv
  python -m bench.predict --check runs.csv --model path/to/checkpoint --data path/to/data --json
"""


@click.command(
    "python -m bench.predict", help=__doc__.partition("\n")[0] if __doc__ else None, epilog=_EPILOG
)
@click.option(
    "--check",
    "runs",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Results whose settings are left out of the fit in turn and predicted.",
)
@click.option("--model", help="The checkpoint's folder, where the rows' model is one.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the task's files.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(runs: Path, model: str | None, data: Path | None, as_json: bool) -> int:
    if not runs.is_file():
        raise InputError(f"{runs}: no such file of results; name one with --check")
    found = [group for group in groups(read_rows(runs)) if _settings(group) >= _FEWEST]
    if not found:
        raise InputError(f"{runs}: no group has {_FEWEST} settings that ended ok")
    answers = []
    for number, group in enumerate(found, start=1):
        try:
            answers.append((group, _forecasts(group, model, data)))
        except NoPredictionError as error:
            sys.stderr.write(f"error: group {number} can't be predicted: {error}\n")
            return 1
    if as_json:
        click.echo(json.dumps([_as_json(*answer) for answer in answers], indent=2))
        return 0
    for answer in answers:
        _print(*answer)
    return 0


def _settings(group: Group) -> int:
    return sum(bool(setting.ok) for setting in group.settings)


def _forecasts(group: Group, name: str | None, data: Path | None) -> list[Forecast]:
    """A forecast of each kind of memory that was measured, the headline first."""
    first = group.first
    rows = sorted(
        (row for row in group.rows if row["status"] == "ok"),
        key=lambda row: str(row["finished_at"] or ""),
    )
    model = find_model(name or str(first["model"]), str(first["init"]), str(first["pooling"]))
    if model.digest != first["model_digest"]:
        raise InputError(
            f"{model.name} is not the model of these rows ({first['model_digest']}, and it is "
            f"{model.digest}); name its folder with --model"
        )
    conditions = _conditions(first)
    cells = [Cell.from_columns(row) for row in rows]
    headline = make_forecast(cells, rows, model, conditions, data)
    others = [name for name in headline.costs.imports_mib if name != headline.memory_column]
    found = [headline]
    for column in others:
        more = Forecast(headline.costs, conditions.device, conditions.threads, column)
        more.learn(rows)
        found += [more] if more.memory_points() else []
    return found


def _conditions(row: Row) -> Conditions:
    """Those of this machine, on the device of a row: the imports are measured here."""
    found = find_conditions(str(row["device"])).conditions
    if found.conditions_id != row["conditions_id"]:
        sys.stderr.write("note: these rows ran under other conditions than there are here\n")
    return found


def _checks(forecasts: Sequence[Forecast]) -> dict[str, list[Check]]:
    """By the column that is predicted."""
    found = {of.memory_column: checks(of.memory_points(), of.memory_prior) for of in forecasts}
    times = forecasts[0].time_points()
    return found | ({"wall_s": checks(times, forecasts[0].time_prior)} if times else {})


def _print(group: Group, forecasts: Sequence[Forecast]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{group.shared('model')} on {group.shared('task')}, {group.shared('machine')}: "
        f"{_settings(group)} settings. Memory is that above what a worker holds once it has "
        "imported its libraries:"
    )
    for of in forecasts:
        console.print(f"  {of.memory_column}: {of.imports_mib:,.0f} MiB")
    table = Table(
        "", "predicted", "within 10%", "median error", "9 of 10 below", "largest", box=None
    )
    for column, ways in _checks(forecasts).items():
        for check in ways:
            table.add_row(
                column,
                check.way,
                f"{check.within:.0%}",
                *(f"{check.quantile(share):.1%}" for share in (0.5, 0.9, 1.0)),
            )
    console.print(table)


def _as_json(group: Group, forecasts: Sequence[Forecast]) -> dict[str, object]:
    return {
        "conditions_id": group.shared("conditions_id"),
        "model": group.shared("model"),
        "task": group.shared("task"),
        "imports_mib": {of.memory_column: of.imports_mib for of in forecasts},
        "checks": {
            column: {check.way: _check_as_json(check) for check in ways}
            for column, ways in _checks(forecasts).items()
        },
    }


def _check_as_json(check: Check) -> dict[str, object]:
    return {
        "within_10_percent": check.within,
        "error_median": check.quantile(0.5),
        "error_90": check.quantile(0.9),
        "error_max": check.quantile(1.0),
        "settings": [
            {**variant._asdict(), "measured": check.measured[variant], "predicted": told}
            for variant, told in check.told.items()
        ],
    }


if __name__ == "__main__":
    run_command(main)
