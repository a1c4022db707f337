"""The command-line flags that describe the user's own data, shared by the commands that read it."""

import csv
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, get_args

import click
from pydantic import ValidationError

from bench.plan.dataset import DataSpec
from bench.plan.problems import Problem

PATH: Final = "FILE|DIR|hub:NAME"
_HELP: Final = (
    "The examples: CSV, TSV, JSON lines or Parquet, a folder, or a data set on the Hugging Face "
    "hub."
)
_FLAGS: Final[dict[str, tuple[str, str]]] = {
    "config": ("NAME", "Configuration of a set on the hub."),
    "text": ("COLUMN", "The column of the text."),
    "text_pair": ("COLUMN", "The column of a second text."),
    "label": ("COLUMN", "The column of the label."),
    "problem": ("", "What is learned; inferred where clear."),
    "classes": ("A,B,…", 'The classes in their order; one with a comma as "A, or B".'),
    "group": ("COLUMN", "Keep examples of equal value together when splitting."),
    "validation": ("FILE", "The dev examples; without it a tenth of the data."),
    "drop_leaks": ("", "Drop training examples whose text, or a near duplicate, is in dev."),
}
"""By field of `DataSpec`, the metavariable and the help of its flag."""
_KINDS: Final[dict[str, dict[str, Any]]] = {
    "problem": {"type": click.Choice(get_args(Problem))},
    "drop_leaks": {"is_flag": True},
}


def flag_of(field: str) -> str:
    """The flag that fills a field of `DataSpec`."""
    return "--data-config" if field == "config" else f"--{field.replace('_', '-')}"


def with_data(function: Callable[..., int]) -> Callable[..., int]:
    """Add `--data`, `--test` and the flags of `with_details` to a command."""
    test = click.option("--test", metavar="FILE", help="For `python -m bench.report --final` only.")
    data = click.option("--data", "path", metavar=PATH, help=_HELP)
    return data(with_details(test(function)))


def with_details(function: Callable[..., int]) -> Callable[..., int]:
    """Add the flags that describe data to a command, which receives those given as a dict named
    `data`. The command declares `path` itself."""

    @wraps(function)
    def command(**values: Any) -> int:
        given = {name: values.pop(name, None) for name in DataSpec.model_fields}
        if given["classes"] is not None:
            given["classes"] = _listed(given["classes"])
        data = {name: value for name, value in given.items() if value not in (None, False)}
        return function(data=data, **values)

    for name, (metavar, text) in reversed(_FLAGS.items()):
        more = _KINDS.get(name, {"metavar": metavar})
        command = click.option(flag_of(name), name, help=text, **more)(command)
    return command


def _listed(text: str) -> tuple[str, ...]:
    """Names separated by commas; those with commas of their own are in double quotes."""
    try:
        [names] = csv.reader([text], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as error:
        raise click.UsageError(f"--classes {text!r}: give names separated by commas") from error
    return tuple(name.strip() for name in names)


def merged(spec: DataSpec | None, given: dict[str, Any]) -> DataSpec | None:
    """A grid file's description of data with the flags that were given; None: neither.

    Raises:
        click.UsageError: for flags without data that they describe.
    """
    if not given:
        return spec
    if spec is None and "path" not in given:
        flag = flag_of(next((name for name in _FLAGS if name in given), "test"))
        raise click.UsageError(f"{flag} describes data: give it with --data")
    if spec is not None and "path" in given:
        spec = None  # other data: what the file says of its own does not fit
    try:
        return DataSpec.model_validate({**(spec.model_dump() if spec else {}), **given})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        flag = flag_of(name) if name in _FLAGS else "--data"
        raise click.UsageError(f"{flag}: give a name that is not empty") from error
