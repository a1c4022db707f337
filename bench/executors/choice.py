"""The executors, and the flags that choose one of them and say where cells run."""

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click

from bench.common.command import COUNT, Command, options_in
from bench.executors import local
from bench.executors.executor import Opening
from bench.executors.slurm import executor as slurm

EXECUTORS: Final[Mapping[str, Callable[[Mapping[str, Any]], Opening]]] = {
    "local": local.from_flags,
    "slurm": slurm.from_flags,
}
"""By the value of --executor, what checks the flags and opens an executor."""
_TYPES: Final = {"count": COUNT, "executor": click.Choice(list(EXECUTORS))}
_FLAGS: Final = options_in(Path(__file__).with_name("options.toml"), _TYPES)
_NAMES: Final = ("device", "jobs", "executor_name", "slurm_options", "max_running", "check_nodes")


def with_executor(function: Command) -> Command:
    """Add these flags to a command, which receives them as a dict named `where`."""

    @wraps(function)
    def command(**values: Any) -> int:
        where = {name: values.pop(name) for name in _NAMES}
        return function(where=where, **values)

    return _FLAGS(command)


def open_executor(where: Mapping[str, Any]) -> Opening:
    """The executor that flags choose, once they are checked; its devices, too, if they are here.

    Args:
        where: these flags, and `budget_min`.

    Raises:
        InputError: for flags of another executor, and devices or requests that can't be used.
    """
    return EXECUTORS[where["executor_name"]](where)
