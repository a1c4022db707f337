"""Check how well memory and time are forecast for settings that the fit has not seen.

Example: python -m bench.forecast --check runs.csv
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from bench.analysis.groups import Group, groups
from bench.common.command import BAD_INPUT, run_command
from bench.common.errors import InputError
from bench.forecast.check import Check, checks
from bench.forecast.client import NoPredictionError, turn_on
from bench.forecast.forecast import Forecast
from bench.forecast.prepare import make_forecast
from bench.launch.signals import Signals
from bench.machine.conditions import Found, find_conditions
from bench.plan.models import Model, find_model
from bench.plan.rows import Row
from bench.results.store import read_rows
from minbert.data.tasks import find_task
from minbert.model.config import GEOMETRIES

_FEWEST: Final = 5
"""The fewest settings with status ok that can be checked."""

_EPILOG: Final = """\b
Examples:
  python -m bench.forecast --check runs.csv
  python -m bench.forecast --check runs.csv --model path/to/checkpoint --data path/to/data --json
"""


@click.command(
    "python -m bench.forecast", help=__doc__.partition("\n")[0] if __doc__ else None, epilog=_EPILOG
)
@click.option(
    "--check",
    "runs",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Results: each setting is left out of the fit in turn, and predicted.",
)
@click.option(
    "--model",
    help="Folder of the results' checkpoint, unless the model is embedded.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Folder with the task's files.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(runs: Path, model: str | None, data: Path | None, as_json: bool) -> int:
    if not runs.is_file():
        raise InputError(f"{runs}: no such file of results; name one with --check")
    checked = [group for group in groups(read_rows(runs)) if _settings(group) >= _FEWEST]
    if not checked:
        raise InputError(f"{runs}: no group has {_FEWEST} settings that ended ok")
    answers = []
    with Signals() as signals, signals.raising():
        for group in checked:
            try:
                answers.append((group, _forecasts(group, model, data, signals)))
            except (NoPredictionError, *BAD_INPUT) as error:
                sys.stderr.write(f"note: {_name(group)} is left out: {error}\n")
    code = 0 if len(answers) == len(checked) else 1
    if as_json:
        click.echo(json.dumps([_as_json(*answer) for answer in answers], indent=2))
        return code
    for answer in answers:
        _print(*answer)
    return code


def _name(group: Group) -> str:
    """The name of a group in a sentence."""
    first = group.first
    return f"{first['model']} on {first['task']}, {first['device_name']},"


def _settings(group: Group) -> int:
    """The number of settings with a cell that ended ok."""
    return sum(bool(setting.ok) for setting in group.settings)


def _forecasts(
    group: Group, name: str | None, data: Path | None, signals: Signals
) -> list[Forecast]:
    """Forecasts of a group, one for each column of memory that was measured, the headline first.

    Args:
        name: the model's name or folder, for a group whose model is not embedded.
        data: the folder with the task's files, for a task that needs one.

    Raises:
        InputError, NoPredictionError: if the group can't be predicted on this machine.
    """
    first = group.first
    rows = sorted(
        (row for row in group.rows if row.is_ok),
        key=lambda row: row.finished_at or "",
    )
    machine = _machine(first)
    conditions, turn = machine.conditions, turn_on(machine.device_name, signals)
    model = _model(first, name)
    cells = [row.cell for row in rows]
    folder = data if find_task(first.task).files else None
    headline = make_forecast(cells, rows, model, conditions, folder, turn, machine.gpu)
    forecasts = [headline]
    for column in headline.costs.imports_mib.keys() - {headline.memory_column}:
        other = Forecast(headline.costs, conditions.device, conditions.threads, column)
        other.learn(rows)
        forecasts += [other] if other.memory_points() else []
    return forecasts


def _model(row: Row, name: str | None) -> Model:
    """The model of a row: an embedded one, or the one given.

    Raises:
        InputError: if neither is the row's.
    """
    own, init = row.model, row.init
    embedded = own == "minilm" or (init == "random" and own in GEOMETRIES)
    names = [*([own] if embedded or name is None else []), *([] if name is None else [name])]
    for candidate in names:
        model = find_model(candidate, init, row.pooling)
        if model.digest == row.model_digest:
            return model
    raise InputError(
        f"{model.name} is not the model of these rows (its digest is {model.digest}, theirs "
        f"{row['model_digest']}); name the model's folder with --model"
    )


def _machine(row: Row) -> Found:
    """This machine with the device of a row, for the memory of imports is measured here.

    Raises:
        InputError: if this machine has no such device.
    """
    device = row.device
    try:
        machine = find_conditions(device)
    except InputError as error:
        if device == "cpu":
            raise
        raise InputError(f"they ran on {device}, which is not here") from error
    if machine.conditions.conditions_id != row.conditions_id:
        sys.stderr.write("note: these rows were measured under other conditions than today's\n")
    return machine


def _checks(forecasts: Sequence[Forecast]) -> dict[str, list[Check]]:
    """Checks by the column that is predicted."""
    memory = {one.memory_column: checks(one.memory_points(), one.memory_prior) for one in forecasts}
    times = forecasts[0].time_points()
    return memory | ({"wall_s": checks(times, forecasts[0].time_prior)} if times else {})


def _print(group: Group, forecasts: Sequence[Forecast]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{group.shared('model')} on {group.shared('task')}, {group.shared('machine')}: "
        f"{_settings(group)} settings. Memory is counted above that of a worker which has only "
        "imported its libraries:"
    )
    for forecast in forecasts:
        console.print(f"  {forecast.memory_column}: {forecast.imports_mib:,.0f} MiB")
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
        "imports_mib": {one.memory_column: one.imports_mib for one in forecasts},
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
            {**variant._asdict(), "measured": check.measured[variant], "predicted": predicted}
            for variant, predicted in check.predicted.items()
        ],
    }


if __name__ == "__main__":
    run_command(main)
