"""The options of a study's command that say where its results go, and its pages."""

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click

from bench.common import messages
from bench.common.command import Command
from bench.common.csvfile import check_csv
from bench.launch.checks import check_reports
from bench.report.text import without_paths


def with_outputs(name: str, rows: str) -> Callable[[Command], Command]:
    """Give a command `--csv`, `--json` and `--reports`, which it gets as the arguments `csv_file`,
    `as_json` and `reports`; files and folders that can't be written are refused first.

    Args:
        name: of the pages.
        rows: the rows of the CSV, as the help names them.
    """

    def decorate(function: Command) -> Command:
        path = click.Path(path_type=Path)

        @click.option("--csv", "csv_file", type=path, help=f"Write a CSV with a row for {rows}.")
        @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
        @click.option(
            "--reports", type=path, help=f"Write {name}.md and {name}.html to this folder."
        )
        @wraps(function)
        def command(
            runs: Sequence[Path], csv_file: Path | None, reports: Path | None, **others: Any
        ) -> int:
            if csv_file is not None:
                check_csv(csv_file, runs)
            if reports is not None:
                check_reports(reports, name)
            return function(runs=runs, csv_file=csv_file, reports=reports, **others)

        return command

    return decorate


def command_line(name: str) -> str:
    """The command `python -m bench.NAME` with the arguments of this process, without folders."""
    return without_paths(messages.command_line(name, *sys.argv[1:]))
