"""Cells that need not run because the same cell, only smaller, ran out of memory."""

from collections.abc import Iterable
from operator import attrgetter
from typing import Final

from bench.plan.cell import Cell, Value, named
from bench.plan.rows import Row

_BIGGER: Final = named(lambda about: about.grows)
"""Settings with which memory grows, all else equal."""
_same: Final = attrgetter(
    *named(lambda about: about.identifies and "memory" in about.changes and not about.grows)
)
"""Other settings that memory depends on; with fewer steps the largest batch may never come."""


def memory_key(cell: Cell, conditions_id: str) -> tuple[Value, ...]:
    """What a cell has to share with another for one to be the other, only bigger."""
    return (conditions_id, *_same(cell))


def dominating(cell: Cell, conditions_id: str, rows: Iterable[Row]) -> Row | None:
    """A current row of the same cell, only smaller, that ran out of memory; None without one. Rates
    and the seed may differ, but don't make a cell bigger: where memory is barely enough, or other
    processes use it too, one seed may fit where another did not."""
    smaller = (
        row
        for row in rows
        if row.status == "oom"
        and memory_key(row, row.conditions_id) == memory_key(cell, conditions_id)
        and all(_at_most(row[name], getattr(cell, name)) for name in _BIGGER)
        and any(row[name] != getattr(cell, name) for name in _BIGGER)
    )
    return next(smaller, None)


def why_skipped(cell: Cell, row: Row) -> str:
    bigger = [
        f"{name.replace('_', ' ')} {row[name]}, here {getattr(cell, name)}"
        for name in _BIGGER
        if row[name] != getattr(cell, name)
    ]
    return (
        f"the same, only smaller, ran out of memory ({', '.join(bigger)}); "
        "--rerun skipped runs it all the same"
    )


def _at_most(smaller: object, value: object) -> bool:
    if smaller is None or value is None:
        return smaller is value
    return isinstance(smaller, int) and isinstance(value, int) and smaller <= value
