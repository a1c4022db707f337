"""Check how well memory and time are forecast for settings that the fit has not seen.

Examples:
  python -m bench.forecast --check runs.csv
  python -m bench.forecast --check runs.csv --model path/to/checkpoint --data path/to/data --json
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from bench.analysis.groups import Group, groups
from bench.common.command import BAD_INPUT, described, options_in, run_command
from bench.common.errors import InputError
from bench.common.messages import echo
from bench.common.progress import Console
from bench.forecast.client import NoPredictionError, lock_on
from bench.forecast.costs import Variant
from bench.forecast.forecast import Fit, Forecast, errors
from bench.forecast.outlook import Counting, make_forecast
from bench.launch.signals import Signals
from bench.machine.conditions import Target, find_conditions
from bench.plan.models import Model, find_model
from bench.plan.rows import Row
from bench.results.origins import data_folder, folder_of
from bench.results.store import read_rows
from minbert.model.config import GEOMETRIES

_FEWEST: Final = 5


@described(__doc__)
@options_in(__file__, "options.toml")
def main(runs: Path, model: str | None, data: Path | None, as_json: bool) -> int:
    if not runs.is_file():
        raise InputError(f"{runs}: no such file of results; name one with --check")
    to_check = [group for group in groups(read_rows(runs)) if _settings(group) >= _FEWEST]
    if not to_check:
        raise InputError(f"{runs}: no group has {_FEWEST} settings that ended ok")
    answers = []
    with Signals() as signals, signals.raising():
        for group in to_check:
            try:
                forecast = _forecast(runs, group, model, data, signals)
            except (NoPredictionError, *BAD_INPUT) as error:
                row = group.first
                name = f"{row.model} on {row.task}, {row.device_name},"
                echo(f"note: {name} is left out: {error}", err=True)
            else:
                answers.append((group, _checked(group, forecast)))
    code = 0 if len(answers) == len(to_check) else 1
    if as_json:
        echo(json.dumps([checked for _, checked in answers], indent=2))
        return code
    for answer in answers:
        _print(*answer)
    return code


def _settings(group: Group) -> int:
    return sum(bool(setting.ok) for setting in group.settings)


def _forecast(
    runs: Path, group: Group, name: str | None, data: Path | None, signals: Signals
) -> Forecast:
    """The forecast of a group, whose model or task may need a name or a folder that the user gives;
    InputError or NoPredictionError if it can't be predicted on this machine."""
    first = group.first
    ok = (row for row in group.rows if row.is_ok)
    rows = sorted(ok, key=lambda row: row.finished_at or "")
    machine = _machine(first)
    folder, model = data_folder(first, folder_of(runs, first), data), _model(first, name)
    lock = lock_on(machine.device_name, signals)
    counting = Counting(machine.conditions, folder, lock, machine.gpu)
    return make_forecast([row.cell for row in rows], rows, model, counting)


def _model(row: Row, name: str | None) -> Model:
    """The model of a row: an embedded one, or the one given; InputError if neither is the row's."""
    own, init = row.model, row.init
    embedded = own == "minilm" or (init == "random" and own in GEOMETRIES)
    model = find_model(own if embedded or name is None else name, init, row.pooling)
    if model.digest == row.model_digest:
        return model
    raise InputError(
        f"{model.name} is not the model of these rows (its digest is {model.digest}, theirs "
        f"{row['model_digest']}); name the model's folder with --model"
    )


def _machine(row: Row) -> Target:
    """This machine with the device of a row, for the memory of imports is measured here; InputError
    if it has no such device."""
    device = row.device
    try:
        machine = find_conditions(device)
    except InputError as error:
        if device == "cpu":
            raise
        raise InputError(f"they ran on {device}, which is not here") from error
    if machine.conditions.conditions_id != row.conditions_id:
        echo("note: these rows were measured under other conditions than today's", err=True)
    return machine


def _checked(group: Group, forecast: Forecast) -> dict[str, Any]:
    """Predictions of a group and their errors, by the column that is predicted."""
    fits = {forecast.memory_column: forecast.memory, "wall_s": forecast.time}
    return {
        "conditions_id": group.shared("conditions_id"),
        "model": group.shared("model"),
        "task": group.shared("task"),
        "imports_mib": {forecast.memory_column: max(map(forecast.imports_mib, forecast.totals))},
        "checks": {
            column: {way: _errors(fit, predicted) for way, predicted in fit.checks().items()}
            for column, fit in fits.items()
            if fit.points
        },
    }


def _errors(fit: Fit, predicted: Mapping[Variant, float]) -> dict[str, Any]:
    measured = [value for _, value in fit.points.values()]
    settings = [
        {**variant._asdict(), "measured": value, "predicted": predicted[variant]}
        for variant, value in zip(predicted, measured, strict=True)
    ]
    return {**errors([*predicted.values()], measured), "settings": settings}


def _print(group: Group, checked: dict[str, Any]) -> None:
    console = Console(soft_wrap=True)
    [imports_mib] = checked["imports_mib"].values()
    echo(
        f"{group.shared('model')} on {group.shared('task')}, {group.shared('machine')}: "
        f"{_settings(group)} settings. Memory is counted above the {imports_mib:,.0f} MiB of a "
        "worker which has only imported its libraries:"
    )
    table = Table(
        "", "predicted", "within 10%", "median error", "9 of 10 below", "largest", box=None
    )
    for column, ways in checked["checks"].items():
        for way, figures in ways.items():
            shares = (figures[name] for name in ("error_median", "error_90", "error_max"))
            within = f"{figures['within_10_percent']:.0%}"
            table.add_row(column, way, within, *(f"{share:.1%}" for share in shares))
    console.print(table)


if __name__ == "__main__":
    run_command(main)
