"""The output of a command: tables on a terminal, and values for JSON."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table as Grid

from bench.common.messages import as_called, printable
from bench.report.tables import Table

_WIDTH: Final = 200  # characters of a line if stdout is no terminal
_MOST: Final = 500


def print_tables(tables: Sequence[Table], lines: Sequence[str]) -> None:
    """Print the first rows of tables, each under its caption, and then lines, to stdout."""
    # texts unchanged, without markup
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDTH
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


def finite(value: Any, form: Callable[[str], str] = str) -> Any:
    """A value of JSON, with null for numbers that are not finite, and texts in a form."""
    if isinstance(value, Mapping):
        return {name: finite(inner, form) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner, form) for inner in value]
    if isinstance(value, str):
        return form(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
