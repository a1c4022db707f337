"""The output of a command on its rows: tables on a terminal, or JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table as Grid

from bench.common.messages import as_called, printable
from bench.report.tables import Table

Rows = Sequence[Mapping[str, Any]]

_WIDTH: Final = 200
"""Characters of a line if stdout is no terminal."""
_MOST: Final = 500


def print_tables(tables: Sequence[Table], lines: Sequence[str]) -> None:
    """Print the first rows of tables, each under its caption, and then lines, to stdout."""
    console = _console()
    if not console.is_terminal:
        console = _console(width=_WIDTH)
    for table in tables:
        grid = Grid(title=table.caption, title_justify="left", box=None)
        for head in table.heads:
            grid.add_column(
                head.text, justify="right" if head.numeric else "left", no_wrap=not head.numeric
            )
        for row in table.rows[:_MOST]:
            grid.add_row(*map(printable, row))
        console.print(grid)
        if (more := len(table.rows) - _MOST) > 0:
            console.print(f"and {more:,} more")
        console.print()
    for line in lines:
        console.print(printable(as_called(line)), soft_wrap=True)


def _console(width: int | None = None) -> Console:
    """A console that prints texts unchanged, without markup."""
    return Console(highlight=False, markup=False, emoji=False, width=width)


def as_json(rows: Rows, more: Mapping[str, Any]) -> str:
    """Rows and further fields as JSON, with null for numbers that are not finite."""
    return json.dumps(_finite({**more, "rows": rows}), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
