"""Shared by all commands: errors as one line with an exit code, and the option `--runs`."""

import os
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click

from bench.common.errors import DiskFullError, InputError, RefusedError, StoppedError
from bench.common.files import below, text_or_empty
from bench.common.messages import CONSOLE, echo
from minbert.files import is_file
from minbert.registry import note_unusable, read_tables

_LONGEST: Final = 2000  # the most characters of an error that are printed
_RUNS: Final = Path("runs.csv")
_RESULTS: Final = Path("results")
"""The folder of a checkout that has the results of each of the user's own data sets in a folder."""
_ROOT: Final = Path(__file__).parents[2]

BAD_INPUT = (InputError, RefusedError)
Command = Callable[..., int]


def run_command(command: click.Command, name: str | None = None) -> None:
    """Run a click command and exit with its code. Bad usage and bad input print one line on stderr
    and exit with 2, a full disk prints one line and exits with 1, an interrupt exits with 130. Its
    name in its help is that of the module, if none is given."""
    _set_import_path()
    note_unusable()
    try:
        code = command.main(prog_name=name, standalone_mode=False)
    except (click.exceptions.Abort, StoppedError):
        sys.exit(130)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except BAD_INPUT as error:
        _fail(str(error), 2)
    except DiskFullError as error:
        _fail(str(error), 1)
    sys.exit(code if isinstance(code, int) else 0)


def _set_import_path() -> None:
    """Let child processes, those of libraries too, import this code and nothing from the current
    folder, which may be anybody's."""
    root = [str(_ROOT)] if (_ROOT / "pyproject.toml").is_file() else []
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [*root, *(path for path in inherited if path and path not in root)]
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}


def _in_checkout() -> bool:
    """Whether the current folder is a checkout of this project, which has a runs.csv committed."""
    return f'name = "{CONSOLE}"' in text_or_empty(Path("pyproject.toml"))


def runs_for(data: str | None) -> Path:
    """The file that gets results if none is named: of the user's own data, by its name, or of
    embedded data (None)."""
    return below(_RESULTS, data) / _RUNS if data and _in_checkout() else _RUNS


def default_runs() -> Path:
    """The file that a command reads if none is named: runs.csv or, in a checkout, that of the last
    grid. A note says which, if there are several."""
    every = [_RUNS, *sorted(_RESULTS.glob(f"*/{_RUNS}"))] if _in_checkout() else [_RUNS]
    last, *others = sorted(every, key=_planned_at, reverse=True)
    if others:
        elsewhere = " or ".join(map(str, others))
        echo(f"note: this is {last}, of the last grid; --runs {elsewhere} reads others", err=True)
    return last


def _planned_at(runs: Path) -> float:
    plan = runs.with_suffix("") / "plan.json"  # not the CSV, which git writes, too
    return plan.stat().st_mtime if is_file(plan) else 0.0


def reports_for(runs: Path) -> Path:
    """The folder of reports if none is named: next to the results, of data of the user's own."""
    is_own = _in_checkout() and runs.absolute().parent.parent == _RESULTS.absolute()
    return runs.parent / "reports" if is_own else Path("reports")


def described(
    doc: str | None, cls: type[click.Command] = click.Command
) -> Callable[[Command], click.Command]:
    """Make a command of a function, with its module's docstring: the first paragraph is the help,
    and the others follow the options, with their lines as they are."""
    first, *others = (doc or "").strip().split("\n\n")
    epilog = "\n\n".join(f"\b\n{text}" for text in others)
    return click.command(cls=cls, help=first, epilog=epilog)


def with_runs(text: str) -> Callable[[Command], Command]:
    """Give a command the option `--runs FILE...` with a help text, which it gets as the argument
    `runs`. Both `--runs one --runs other` and `--runs one other` name two files. A missing file is
    refused."""

    def decorate(function: Command) -> Command:
        @click.option(
            "--runs", "first", multiple=True, type=FILE, metavar="FILE...",
            help=f"{text}  [default: {_RUNS}]",
        )  # fmt: skip
        @click.argument("more", nargs=-1, type=FILE, metavar="")
        @wraps(function)
        def command(*, first: tuple[Path, ...], more: tuple[Path, ...], **others: Any) -> int:
            runs = [*first, *more] or [default_runs()]
            for path in runs:
                if not is_file(path):
                    raise InputError(f"{path}: no such file of results; name one with --runs")
            return function(runs=runs, **others)

        return command

    return decorate


def options_in(
    module: str,
    name: str,
    /,
    types: "Mapping[str, click.ParamType[Any]] | None" = None,
    groups: Mapping[str, Callable[[Command], Command]] | None = None,
    **texts: str,
) -> Callable[[Command], Command]:
    """Give a command the options of a TOML file next to the `__file__` of a module, a table each,
    with the arguments of click.option. One of a whole number has `min`, and maybe `max`.

    Args:
        types: by the name that a table has as its `type`, if that is not `path`; one with `choices`
            or `min` needs none.
        groups: what adds other options, by the name of the table in whose place these are.
        texts: what stands for `{NAME}` in the help.
    """
    tables = read_tables(module, name)
    known = {"path": FILE, **(types or {})}

    def option(flag: str, table: Mapping[str, Any]) -> Callable[[Command], Command]:
        if groups and flag in groups:
            return groups[flag]
        fields = {name: table[name] for name in table.keys() - {"name", "choices", "min", "max"}}
        if "choices" in table:
            fields["type"] = click.Choice(table["choices"])
        elif "min" in table:
            fields["type"] = click.IntRange(table["min"], table.get("max"))
        elif "type" in table:
            fields["type"] = known[table["type"]]
        if "/" in flag:  # on or off, or neither is given
            fields.setdefault("default", None)
        if table.get("default") == str(_RUNS):
            fields |= {"default": default_runs, "show_default": str(_RUNS)}
        fields["help"] = table["help"].format_map(texts)
        return click.option(flag, *filter(None, [table.get("name")]), **fields)

    def decorate(command: Command) -> Command:
        for flag, table in reversed(tables.items()):
            command = option(flag, table)(command)
        return command

    return decorate


FILE: Final = click.Path(path_type=Path)


def _fail(message: str, code: int) -> None:
    echo(f"error: {' '.join(message.split())[:_LONGEST]}", err=True)
    sys.exit(code)
