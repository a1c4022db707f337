"""A table of examples as every format gives it: columns, and rows that are read one by one."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Final

from bench.common.errors import InputError

Value = str | list[str] | None
"""A field: its text, a list of texts, or None where it is missing."""
Fields = tuple[Value, ...] | str
"""The fields of a row; or the reason why it can't be used."""

LONGEST: Final = 2**20
"""Characters of a row; an encoder reads the first few thousand of a text."""


@dataclass(frozen=True)
class Records:
    """A table whose rows can be read more than once: `read` gives each with its number from 1 and
    the fields of the columns that are asked for. Rows have the names of classes, not indices."""

    name: str  # its file, as messages show it
    columns: tuple[str, ...]
    read: Callable[[Sequence[str]], Iterator[tuple[int, Fields]]]
    unit: str = "line"  # what its rows are counted in, `line` or `record`
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by column, in order
    notes: tuple[str, ...] = ()  # how it was read, where that is not obvious

    def check_column(self, column: str, flag: str) -> None:
        count = self.columns.count(column)
        if count > 1:
            raise InputError(
                f"{self.name}: {count} columns are called {quoted(column)}; rename all but one"
            )
        if not count:
            alike = SequenceMatcher(b=column.casefold())

            def distance(name: str) -> float:
                alike.set_seq1(name.casefold())
                return -alike.ratio()

            nearest = sorted(self.columns, key=distance)
            raise InputError(
                f"{self.name}: {flag} {quoted(column)} is no column; nearest of "
                f"{len(nearest):,}: {listed(nearest[:5])}"
            )


def fields_of(values: Iterable[object]) -> Fields:
    """The fields that values of JSON or Arrow stand for; NaN is a missing value."""
    try:
        return tuple(map(_value, values))
    except TypeError:
        return "with nested or binary values"


def _value(value: object) -> Value:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        texts = [_value(each) for each in value]
        if not any(isinstance(each, list) for each in texts):
            return [each for each in texts if isinstance(each, str)]
    if isinstance(value, list | dict | bytes):
        raise TypeError
    return None if value != value else str(value)


def quoted(name: str) -> str:
    """A name or label from a file, for a message: short and printable."""
    shown = name if name.isprintable() and name else ascii(name)
    return f"`{shown if len(shown) <= 40 else shown[:40] + '…'}`"


def listed(names: Iterable[str], most: int = 30) -> str:
    shown = [quoted(name) for name in names]
    rest = [f"and {len(shown) - most:,} more"] if len(shown) > most else []
    return ", ".join(shown[:most] + rest)
