"""What a command prints and leaves of its rows: tables on a terminal, JSON, a CSV."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table as Grid

from bench.errors import InputError
from bench.files import try_to_write, write_atomically
from bench.report.tables import Table

Rows = Sequence[Mapping[str, Any]]

_WIDTH: Final = 120
"""Characters of a line where there is no terminal to ask."""


def print_tables(tables: Sequence[Table], lines: Sequence[str]) -> None:
    """Print tables, each under its caption, and then some lines, to stdout."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    for table in tables:
        grid = Grid(title=table.caption, title_justify="left", box=None)
        for head in table.heads:
            grid.add_column(
                head.text, justify="right" if head.numeric else "left", no_wrap=not head.numeric
            )
        for row in table.rows:
            grid.add_row(*row)
        console.print(grid)
        console.print()
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def as_json(rows: Rows, more: Mapping[str, Any]) -> str:
    """Rows, and what belongs to them, as JSON; a number that is not finite as null."""
    return json.dumps(_finite({**more, "rows": rows}), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_csv(path: Path) -> None:
    """Try whether a CSV can be written at a path, before anything runs.

    Raises:
        InputError: if not.
    """
    try:
        if path.is_dir():
            raise InputError(f"--csv: {path} is a folder; name a file")
        try_to_write(path.parent)
    except OSError as error:
        raise InputError(
            f"--csv: {path} can't be written ({error.strerror}); name a file in a folder that is "
            "there"
        ) from error


def write_csv(path: Path, columns: Sequence[str], rows: Rows) -> None:
    """Write rows as a CSV file; empty fields are what does not apply or was not measured."""
    text = StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if row[name] is None else row[name] for name in columns])
    write_atomically(path, text.getvalue().encode())
