"""A runs.csv in a folder, and a command that reads it."""

from pathlib import Path

import click
import pytest

from bench.common.command import BAD_INPUT
from bench.plan.cell import Cell
from bench.plan.rows import Row
from bench.results.store import cell_folder
from tests.bench.synthetic_rows import write_rows


class CommandPlace:
    """A runs.csv with rows of made-up cells, and a command that takes it as `--runs`."""

    def __init__(self, folder: Path, command: click.Command) -> None:
        self.csv = folder / "runs.csv"
        self.rows: list[Row] = []
        self._command = command

    def folder(self, of: Cell, row: Row) -> Path:
        return cell_folder(self.csv, of.name, *row.row_key)

    def write(self) -> None:
        write_rows(self.csv, self.rows)

    def run(self, *arguments: str) -> int:
        return int(self._command.main(["--runs", str(self.csv), *arguments], standalone_mode=False))

    def refused(self, *arguments: str) -> str:
        """The command's message for bad input, which has to be one line."""
        with pytest.raises(BAD_INPUT) as caught:
            self.run(*arguments)
        assert "\n" not in str(caught.value)
        return str(caught.value)
