"""A table of examples as every format gives it: columns, and rows that are read one by one."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.common.errors import InputError

Value = str | list[str] | None
"""A field: its text, a list of texts, or None where it is missing."""
Row = tuple[int, tuple[Value, ...] | str]
"""The number of a line or record, from 1, and its fields; or the reason why it can't be used."""

_LONGEST_NAME: Final = 40
_MOST_NAMES: Final = 30


@dataclass(frozen=True)
class Table:
    """A table whose rows can be read more than once.

    Attributes:
        name: its file, as messages show it.
        columns: their names, in order.
        read: the rows, with the fields of the columns that are asked for; a generator.
        unit: what its rows are counted in, `line` or `record`.
        class_names: of the columns that hold indices of named classes, the names in their order.
            The rows have names, not indices.
        notes: how it was read, where that is not obvious.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Sequence[str]], Iterator[Row]]
    unit: str = "line"
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def check_column(self, column: str, flag: str) -> None:
        """Test that a column exists once.

        Raises:
            InputError: with the nearest names.
        """
        count = self.columns.count(column)
        if count > 1:
            raise InputError(
                f"{self.name}: {count} columns are called {quoted(column)}; rename all but one"
            )
        if not count:
            by_folded = {name.casefold(): name for name in self.columns}
            near = difflib.get_close_matches(column.casefold(), by_folded, n=3, cutoff=0.5)
            hint = f"; nearest: {listed(by_folded[name] for name in near)}" if near else ""
            raise InputError(
                f"{self.name}: {flag} {quoted(column)} is no column{hint}; "
                f"there are {listed(self.columns)}"
            )


def quoted(name: str) -> str:
    """A name or label from a file, for a message: short and printable."""
    shown = name if name.isprintable() and name else ascii(name)
    return f"`{shown if len(shown) <= _LONGEST_NAME else shown[:_LONGEST_NAME] + '…'}`"


def listed(names: Iterable[str], most: int = _MOST_NAMES) -> str:
    """Names for a message; of many the first."""
    shown = [quoted(name) for name in names]
    rest = [f"and {len(shown) - most:,} more"] if len(shown) > most else []
    return ", ".join(shown[:most] + rest)
