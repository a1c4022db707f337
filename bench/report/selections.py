"""Which `--select` of a grid plans exactly some of its cells. Pure."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from bench.plan.cell import Cell, Row, Value
from bench.plan.columns import format_value
from bench.plan.selection import AXES

Point = tuple[str | None, ...]
"""What `--select` can say of a cell: the text of each of its `AXES`; None: not there."""

_RATE: Final = AXES.index("learning_rate")


def point(row: Row, *, searched: bool = False) -> Point:
    """A row's place in its grid; without its rate where a search found it, which no grid has."""
    texts = {name: format_value(row.get(name)) or None for name in AXES}
    texts["seed"] = texts["seed"] or "0"
    texts["learning_rate"] = None if searched else _rate(row)
    if row.get("mode") != "head":
        texts["unfreeze"] = texts["unfreeze"] or "all"
    return tuple(texts.values())


def points(cells: Collection[Cell], seeds: int, *, searched: bool = False) -> dict[Point, Point]:
    """The places of a grid's cells of one seed, for so many seeds: as a row has them, and as
    `--select` finds them, where rates have all their digits."""
    found = {}
    for cell in cells:
        columns = cell.columns()
        place = point(columns, searched=searched)
        rate = cell.learning_rate_head if cell.mode == "head" else cell.learning_rate
        exact = None if place[_RATE] is None else repr(rate)
        for seed in map(str, range(seeds)):
            found[*place[:-1], seed] = (*place[:_RATE], exact, seed)
    return found


def exactly(wanted: Sequence[Point], every: Collection[Point]) -> tuple[list[str], int]:
    """The fewest selections that a grid's wanted cells are products of, and how many cells these
    plan: more than are wanted, where no product for each mode is exact.

    A selection without a term, for all of the grid, is empty.
    """
    whole, left = narrow(wanted, every)
    if len(left) == len(wanted):
        return [whole], len(left)
    of_modes: dict[str | None, list[Point]] = {}
    for one in wanted:
        of_modes.setdefault(one[0], []).append(one)
    blocks: dict[frozenset[Point], list[Point]] = {}
    for part in of_modes.values():  # modes alike in all else are one product
        blocks.setdefault(frozenset(one[1:] for one in part), []).extend(part)
    found = [narrow(block, every) for block in blocks.values()]
    planned = sum(len(each) for _, each in found)
    return ([text for text, _ in found], planned) if planned < len(left) else ([whole], len(left))


def narrow(wanted: Sequence[Point], every: Collection[Point]) -> tuple[str, Collection[Point]]:
    """The narrowest selection that has all wanted cells, and those of the grid that it plans.

    It names the axes that leave cells out. One that some wanted cell doesn't have, as full
    fine-tuning has no rank, can't be named: naming it would leave that cell out.
    """
    left = every
    terms = []
    for place, axis in enumerate(AXES):
        values = dict.fromkeys(one[place] for one in wanted)
        if None in values or values.keys() >= {one[place] for one in left}:
            continue
        terms.append(f"{axis}={','.join(map(str, values))}")
        left = [one for one in left if one[place] in values]
    return " ".join(terms), left


def named(one: Point) -> str:
    """The selection that names all of a cell's axes."""
    return " ".join(f"{axis}={text}" for axis, text in zip(AXES, one, strict=True) if text)


def _rate(row: Mapping[str, Value]) -> str | None:
    """As `bench.plan.selection.select` takes it: of the head alone, its own."""
    name = "learning_rate_head" if row.get("mode") == "head" else "learning_rate"
    return format_value(row.get(name)) or None
