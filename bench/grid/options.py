"""The flags of the command bench.grid, which options.toml lists."""

import math
from pathlib import Path
from typing import Any, Final

import click

from bench.common.command import COUNT, FILE, options_in
from bench.examples.options import with_data
from bench.executors.choice import with_executor
from bench.plan import gridfile
from bench.plan.cell import ENGINES
from bench.plan.metrics import METRIC_HELP, METRICS
from minbert.files import is_folder


class _Amount(click.FloatRange):
    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            unit = str(param.metavar if param else "").lower()
            self.fail(f"{number} is not a number of {unit}; for no limit, leave it out.")
        return number


class _OnOff(click.Choice[str]):
    """`auto`, or whether something is on."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        choice = super().convert(value, param, ctx)
        return {"on": True, "off": False}.get(choice, choice)


def _length(value: str) -> int | str:
    try:
        return int(value) if value.isdecimal() else value
    except ValueError:  # of thousands of digits
        return value


def _models(value: str) -> list[str]:
    return [value] if is_folder(value) else value.split(",")


_TYPES: "Final[dict[str, click.ParamType[Any]]]" = {
    "amount": _Amount(min=0, min_open=True),
    "compile": _OnOff(["auto", "on", "off"]),
    "count": COUNT,
    "engine": click.Choice(["auto", *ENGINES]),
    "folds": click.IntRange(min=2),
    "length": click.types.FuncParamType(_length),
    "metric": click.Choice(list(METRICS)),
    "models": click.types.FuncParamType(_models),
    "path": FILE,
}
with_flags: Final = options_in(
    Path(__file__).with_name("options.toml"),
    _TYPES,
    {"data": with_data, "executor": with_executor},
    grids=", ".join(gridfile.names()),
    metric_help=METRIC_HELP,
)
"""Gives a command the flags of bench.grid."""
