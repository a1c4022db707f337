"""Plans of a run: by kind of device, and by round of a search for learning rates or of a race."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bench.analysis.racing import Raced
from bench.machine.conditions import Target
from bench.plan.cell import ON, Cell
from bench.plan.gridfile import Grid
from bench.plan.learning_rates import Search, why_no_rates, without_rates
from bench.plan.planning import RERUN, SKIP, Planned, on_device, plan
from bench.plan.rows import Row
from bench.results.store import Store
from bench.stats.best import FEWEST_SEEDS, ROUNDS


class Kinds:
    """Plans cells for devices of one or several kinds.

    Cells are those of the first kind. On another one `amp` on may be another type, and `compile`
    auto another value, so that the same cell of the grid has another id.

    `kinds` returns those that are known so far, always with the same first.
    """

    def __init__(self, grid: Grid, kinds: Callable[[], Iterable[Target]]) -> None:
        self._kinds = kinds
        self._named = {amp for axes in grid.cells for amp in axes.amp}

    def plan(self, cells: Sequence[Cell], rows: Sequence[Row], **options: Any) -> list[Planned]:
        """As `bench.plan.planning.plan`; a cell with a result on another kind is of that one."""
        plans: list[list[Planned]] = []
        for kind in self._kinds():
            there = {cell.cell_id: self._on(cell, kind) for cell in cells}
            planned = plan(list(there.values()), rows, kind.conditions.columns(), **options)
            if plans:
                by_key = {item.key: item for item in planned}
                first = ((there[i.cell.cell_id].cell_id, i.repeat) for i in plans[0])
                planned = [by_key[key] for key in first]
            plans.append(planned)
        return [self._chosen(items) for items in zip(*plans, strict=True)]

    def _chosen(self, items: Sequence[Planned]) -> Planned:
        """The one of a cell's items, by kind, that says most about it."""
        order = ("done", "kept", "skip", "run")
        item = min(items, key=lambda i: (order.index(i.action), not i.reason.startswith(RERUN)))
        attempt = max(item.attempt for item in items)  # any of the kinds may run it
        return replace(item, attempt=attempt, amp_is_on=self._is_on(item.cell))

    def _is_on(self, cell: Cell) -> bool:
        """Whether a cell's AMP type stands for `on`; one that the grid also names does not."""
        return cell.amp not in self._named

    def _on(self, cell: Cell, kind: Target) -> Cell:
        amp = kind.amp_on if self._is_on(cell) else cell.amp
        return on_device(cell, amp, kind.no_compiling)

    def scored(self, store: Store, cell: Cell) -> Row | None:
        """A cell's row with a score, on whatever kind; if there is none, one without."""
        rows = [
            store.scored(self._on(cell, kind).cell_id, kind.conditions.columns())
            for kind in self._kinds()
        ]
        return next((row for row in rows if row is not None and row.has_score), rows[0])


PlanNow = Callable[[Sequence[Cell]], list[Planned]]
"""Plans cells by the results that there are when it is called."""
Replay = Callable[[Sequence[Planned]], Raced | None]
"""Replays a race from the rows of its cells."""


def rounds(
    cells: Sequence[Cell], plan_now: PlanNow, search: Search | None, replay: Replay | None = None
) -> Iterator[list[Planned]]:
    """The plans of a run: those of a search for learning rates, if any, then the grid's own, or
    those of a race, if one is replayed."""
    rated: PlanNow = plan_now
    if search is not None:
        for candidates in search.rounds():
            yield plan_now(candidates)
        cells = [search.tuned(cell) or without_rates(cell) for cell in cells]
        rated = partial(_with_rates, search, plan_now)
    if replay is None:
        yield rated(cells)
    else:
        yield from race_rounds(cells, rated, replay)


def _with_rates(search: Search, plan_now: PlanNow, cells: Sequence[Cell]) -> list[Planned]:
    """A plan that skips cells whose search found no rates, and leaves out their repeats."""
    planned = []
    for item in plan_now(cells):
        if item.cell != without_rates(item.cell):
            planned.append(item)
        elif item.repeat == 1:
            tries = search.statuses(item.cell)
            planned.append(replace(item, action=SKIP, reason=why_no_rates(tries), tries=tries))
    return planned


def race_rounds(
    cells: Sequence[Cell], plan_now: PlanNow, replay: Replay
) -> Iterator[list[Planned]]:
    """The plans of the rounds and, once there is a pick, of it and the best on all examples."""
    planned: list[Planned] = []
    for number in range(ROUNDS):
        of_round = [replace(cell, race=ON, seed=number, fold=number) for cell in cells]
        yield plan_now(of_round)
        planned += (ran := plan_now(of_round))  # with the ids of the devices that ran them
        raced = replay(planned)
        if raced is None or len(raced.race.rounds) <= number:
            return
        left = raced.final if raced.race.is_over else [raced.settings[i] for i in raced.race.live]
        ids = {row.cell_id for setting in left for row in setting.rows}
        cells = [cell for cell, own in zip(cells, ran, strict=True) if own.cell.cell_id in ids]
        if raced.race.is_over:
            break
    if cells:
        yield plan_now([replace(c, seed=seed) for seed in range(FEWEST_SEEDS) for c in cells])


def race_round(planned: Iterable[Planned]) -> int | None:
    return max((item.cell.seed + 1 for item in planned if item.cell.race == ON), default=None)


def round_name(planned: Sequence[Planned], number: int | None) -> tuple[str, str]:
    """The name of a plan, empty for the grid's own, and of what it plans, in a search's round."""
    if any(item.cell.is_candidate for item in planned):
        return f"search, round {number}", "candidates"
    raced = race_round(planned)
    return ("" if raced is None else f"race, round {raced} of {ROUNDS}"), "cells"


def first_to_run(plans: Iterable[list[Planned]]) -> tuple[list[Planned], int | None]:
    """The first of some plans that has cells to run, or the last, and its round of the search; None
    for the grid's own plan."""
    for number, planned in enumerate(plans, start=1):  # noqa: B007
        if any(item.action == "run" for item in planned):
            break
    is_search = any(item.cell.is_candidate for item in planned)
    return planned, number if is_search else None
