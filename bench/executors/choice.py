"""The executors, and the flags that choose one of them and say where cells run."""

from collections.abc import Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click

from bench.common.command import COUNT, Command, options_in
from bench.common.errors import InputError
from bench.executors.executor import Entry, Executor, Opening, refuse
from bench.results.store import Store
from minbert.registry import Registry, load

EXECUTORS: Final = Registry(
    Entry,
    "minbert_bench.executors",
    (
        Entry(name="local", opening="bench.executors.local:from_flags"),
        Entry(name="slurm", opening="bench.executors.slurm.executor:from_flags"),
    ),
)
_TYPES: Final = {"count": COUNT, "executor": click.Choice(list(EXECUTORS))}
_FLAGS: Final = options_in(Path(__file__).with_name("options.toml"), _TYPES)
_NAMES: Final = ("device", "jobs", "executor_name", "slurm_options", "max_running", "check_nodes")


def with_executor(function: Command) -> Command:
    """Add these flags to a command, which receives them as a dict named `where`."""
    entries = EXECUTORS.usable().values()
    names = [*_NAMES, *(argument for entry in entries for argument in entry.arguments())]

    @wraps(function)
    def command(**values: Any) -> int:
        where = {name: values.pop(name) for name in names}
        return function(where=where, **values)

    for entry in entries:
        for argument, flag in entry.arguments().items():
            command = click.option(flag, argument, **entry.options[flag])(command)
    return _FLAGS(command)


def open_executor(where: Mapping[str, Any]) -> Opening:
    """The executor that flags choose, once they are checked; its devices, too, if they are here.
    InputError for flags of another executor, for devices and requests that can't be used, and for
    an executor of a plugin that can't."""
    entry = EXECUTORS[where["executor_name"]]
    for other in EXECUTORS.usable().values():
        if other != entry:
            given = {flag: where[name] for name, flag in other.arguments().items()}
            refuse(given, f"executor {other.name}", other.name)
    plugin = EXECUTORS.plugin(entry.name)
    if plugin is None:
        opening: Opening = load(entry.opening)(where)
        return opening
    stamp = f"{entry.name} of {plugin}"
    problem = f"{plugin}: its executor {entry.name!r} can't be used"
    try:
        open_it = load(entry.opening)
    except Exception as error:
        raise InputError(f"{problem}: {error}") from error
    opening = open_it({**where, "stamp": stamp})

    def checked(store: Store, paths: Sequence[Path], is_dry: bool) -> Executor:
        executor = opening(store, paths, is_dry)
        conditions = [kind.conditions.executor for kind in executor.kinds.values()]
        if not all(text and text.startswith(stamp) for text in conditions):
            raise InputError(f"{problem}: its conditions have {conditions} as executor")
        return executor

    return checked
