"""Values of `--select` that plan exactly some cells of a grid. Pure."""

from collections.abc import Collection, Sequence
from typing import Final

from bench.plan.cell import Cell
from bench.plan.columns import format_value
from bench.plan.selection import AXES

Point = tuple[str | None, ...]
"""A cell as `--select` sees it: the text of each of its `AXES`, None where it has no value."""

_RATE: Final = AXES.index("learning_rate")


def point(row: Cell, *, searched: bool = False) -> Point:
    """A row's point in its grid; without a rate if a search found it, for no grid has that rate.

    The rate is the one that `bench.plan.selection.select` compares: of the head alone, its own.
    """
    texts = {name: format_value(getattr(row, name)) or None for name in AXES}
    texts["seed"] = texts["seed"] or "0"
    if row.mode == "head":
        texts["learning_rate"] = format_value(row.learning_rate_head) or None
    else:
        texts["unfreeze"] = texts["unfreeze"] or "all"
    if searched:
        texts["learning_rate"] = None
    return tuple(texts.values())


def points(cells: Collection[Cell], seeds: int, *, searched: bool = False) -> dict[Point, Point]:
    """The points of a grid's cells, given for one seed, over several seeds.

    Rows round a rate; `--select` takes all of its digits. A key is a point as a row has it, and its
    value the same point as `--select` takes it.
    """
    exact_points = {}
    for cell in cells:
        rounded = point(cell, searched=searched)
        rate = cell.learning_rate_head if cell.mode == "head" else cell.learning_rate
        exact = None if rounded[_RATE] is None else repr(rate)
        for seed in map(str, range(seeds)):
            exact_points[*rounded[:-1], seed] = (*rounded[:_RATE], exact, seed)
    return exact_points


def selections(shown: Sequence[Point], grid: Collection[Point]) -> tuple[list[str], int]:
    """The selections that plan the points shown, and the number of points that they plan.

    One selection if it is exact; else one for each mode, with modes that are alike in all else in
    one, if these plan fewer points. The text of a selection of the whole grid is empty.
    """
    whole, planned = narrow(shown, grid)
    if len(planned) == len(shown):
        return [whole], len(planned)
    by_mode: dict[str | None, list[Point]] = {}
    for one in shown:
        by_mode.setdefault(one[0], []).append(one)
    blocks: dict[frozenset[Point], list[Point]] = {}
    for members in by_mode.values():
        blocks.setdefault(frozenset(one[1:] for one in members), []).extend(members)
    narrowed = [narrow(block, grid) for block in blocks.values()]
    total = sum(len(block) for _, block in narrowed)
    return (
        ([text for text, _ in narrowed], total) if total < len(planned) else ([whole], len(planned))
    )


def narrow(shown: Sequence[Point], grid: Collection[Point]) -> tuple[str, Collection[Point]]:
    """The narrowest single selection with all points shown, and the points that it plans.

    It names only axes that leave cells out, and none that a point shown lacks, as full fine-tuning
    lacks a rank: naming it would leave that point out.
    """
    planned = grid
    terms = []
    for place, axis in enumerate(AXES):
        values = dict.fromkeys(one[place] for one in shown)
        if None in values or values.keys() >= {one[place] for one in planned}:
            continue
        terms.append(f"{axis}={','.join(map(str, values))}")
        planned = [one for one in planned if one[place] in values]
    return " ".join(terms), planned


def named(one: Point) -> str:
    """The selection that names every axis of a point."""
    return " ".join(f"{axis}={text}" for axis, text in zip(AXES, one, strict=True) if text)
