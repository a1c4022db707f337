"""The command-line flags that describe the user's own data, shared by the commands that read it."""

import csv
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import click
from pydantic import ValidationError

from bench.common.command import options_in
from bench.plan.dataset import DataSpec
from bench.plan.metrics import PROBLEM_NAMES

PATH: Final = "FILE|DIR|hub:NAME"


def _listed(text: str) -> tuple[str, ...]:
    """Names separated by commas; those with commas of their own are in double quotes."""
    try:
        [names] = csv.reader([text], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as error:
        raise click.UsageError(f"--classes {text!r}: give names separated by commas") from error
    return tuple(name.strip() for name in names)


_add_details: Final = options_in(
    __file__,
    "options.toml",
    {"problem": click.Choice(PROBLEM_NAMES), "classes": click.types.FuncParamType(_listed)},
)


def flag_of(field: str) -> str:
    return "--data-config" if field == "config" else f"--{field.replace('_', '-')}"


def with_details(function: Callable[..., int]) -> Callable[..., int]:
    """Add the flags that describe data to a command, which receives those given as a dict named
    `data`. The command declares `path` itself."""

    @wraps(function)
    def command(**values: Any) -> int:
        given = {name: values.pop(name, None) for name in DataSpec.model_fields}
        data = {name: value for name, value in given.items() if value not in (None, False)}
        return function(data=data, **values)

    return _add_details(command)


with_data: Final = options_in(__file__, "data.toml", groups={"data": with_details})


def merged(spec: DataSpec | None, given: dict[str, Any]) -> DataSpec | None:
    """A grid file's description of data with the flags that were given; None: neither.
    click.UsageError for flags without data that they describe."""
    if not given:
        return spec
    if spec is None and "path" not in given:
        flag = flag_of(next(name for name in DataSpec.model_fields if name in given))
        raise click.UsageError(f"{flag} describes data: give it with --data")
    if spec is not None and "path" in given:
        spec = None  # other data: what the file says of its own does not fit
    try:
        return DataSpec.model_validate({**(spec.model_dump() if spec else {}), **given})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        flag = "--data" if name in ("path", "test") else flag_of(name)
        raise click.UsageError(f"{flag}: give a name that is not empty") from error
