"""The interface of an executor, which runs the planned cells of a grid somewhere; the executors,
and the flags that choose one.

An executor promises that each attempt runs as `bench.launch.attempt.run_cell` runs it, once; that
its row is stored in its folder by `bench.results.row.keep_row`, before `Dispatcher.ended` gets it;
and that a run which is stopped, however that happens, loses no row and repeats none.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Final, Protocol

import click

from bench.common.command import Command, options_in
from bench.common.errors import InputError
from bench.launch.attempt import Attempt
from bench.launch.display import Display
from bench.launch.signals import Signals
from bench.machine.conditions import Target
from bench.machine.devices import Device
from bench.plan.planning import Planned
from bench.plan.rows import Row
from bench.results.store import Store
from minbert.registry import Registry, load


class Dispatcher(Protocol):
    """Gives an executor the cells of a plan, and takes their rows over."""

    display: Display

    def tokenise(self, items: Sequence[Planned]) -> None:
        """Tokenise the examples of cells before any of them runs, so that none is disturbed by it;
        for an executor that prepares some cells while others run on the same machine."""

    def begin(self, item: Planned) -> bool:
        """Show that a cell is next; false if it needs no device: `prepare`, called before anything
        else, leaves it out."""

    def prepare(self, item: Planned) -> Attempt | None:
        """The run of a cell; None if it is skipped, or has a result."""

    def waited(self, seconds: float) -> None:
        """Count a wait for other grids."""

    def ended(self, *rows: tuple[Planned, Row]) -> None:
        """Take over the rows of cells that have run."""


class Executor(ABC):
    """Runs cells on devices of one or several kinds."""

    workers = 0  # the number of cells that run at a time on this machine; 0: they run on others
    devices: Sequence[Device]  # those that are known so far
    flags = ""  # with which a command runs there, in addition to those of devices

    @property
    @abstractmethod
    def kinds(self) -> Mapping[str, Target]:
        """The conditions under which cells run, by their id; those that are known so far."""

    def script(self, groups: Sequence[Sequence[Attempt]]) -> str:  # noqa: ARG002
        """The job script that would be submitted for groups of cells; empty: none is."""
        return ""

    def check(self, run: Callable[[], Attempt], signals: Signals) -> Sequence[str]:  # noqa: ARG002
        """Check where cells would run, if the flags ask for it, maybe by running the first cell
        there, which `run` gives; returns notes on that."""
        return ()

    @abstractmethod
    def run(self, items: Sequence[Planned], dispatcher: Dispatcher, signals: Signals) -> bool:
        """Run cells, those of a plan that are to run, in order; returns true if the user stopped
        it. DeviceError if no device is left. DiskFullError if files can't be written.
        InputError if cells can't be run at all. StoppedError if a wait was ended by the user."""


Opening = Callable[[Store, Sequence[Path], bool], Executor]
"""Makes an executor from the results, the paths that cells need, and whether nothing is to run."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An executor that --executor chooses. `options` are its own flags, with the arguments of
    click.option; no other executor takes them.

    `opening` is the function that checks the flags and returns an `Opening`, as `module:function`.
    It gets them by their arguments' names, with `budget_min`; a plugin's also gets as `stamp` a
    text that has to begin column `executor` of its conditions, since the way in which cells run may
    change what is measured.
    """

    name: str
    opening: str
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def arguments(self) -> dict[str, str]:
        return {name.lstrip("-").replace("-", "_"): name for name in self.options}


def refuse(flags: Mapping[str, object], where: str, executor: str) -> None:
    for flag, value in flags.items():
        if value:
            raise InputError(f"{flag} is for {where}: leave it out, or take --executor {executor}")


EXECUTORS: Final = Registry(
    Entry,
    "minbert_bench.executors",
    (
        Entry(name="local", opening="bench.executors.local:from_flags"),
        Entry(name="slurm", opening="bench.executors.slurm.executor:from_flags"),
    ),
)
_TYPES: Final = {"executor": click.Choice(list(EXECUTORS))}
_FLAGS: Final = options_in(__file__, "options.toml", _TYPES)
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
