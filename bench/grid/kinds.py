"""Plans for devices of several kinds, such as those of the nodes of a cluster."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from bench.machine.conditions import Found
from bench.plan.cell import Cell
from bench.plan.gridfile import Grid
from bench.plan.planning import RERUN, Planned, on_device, plan
from bench.plan.rows import Row
from bench.results.store import Store


class Kinds:
    """Plans cells for devices of one or several kinds.

    Cells are those of the first kind. On another one `amp` on may be another type, and `compile`
    auto another value, so that the same cell of the grid has another id.

    Args:
        grid: the grid of the cells.
        kinds: returns the kinds that are known so far, always with the same first.
    """

    def __init__(self, grid: Grid, kinds: Callable[[], Iterable[Found]]) -> None:
        self._kinds = kinds
        self._named = {amp for axes in grid.cells for amp in axes.amp}

    def plan(self, cells: Sequence[Cell], rows: Sequence[Row], **options: Any) -> list[Planned]:
        """A plan for the first kind, in which a cell that has a result on another is of that one.

        Args:
            options: as of `bench.plan.planning.plan`.
        """
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

    def _on(self, cell: Cell, kind: Found) -> Cell:
        amp = kind.amp_on if self._is_on(cell) else cell.amp
        return on_device(cell, amp, kind.no_compiling)

    def scored(self, store: Store, cell: Cell) -> Row | None:
        """A cell's row with a score, on whatever kind; if there is none, one without."""
        rows = [
            store.scored(self._on(cell, kind).cell_id, kind.conditions.columns())
            for kind in self._kinds()
        ]
        return next((row for row in rows if row is not None and row.has_score), rows[0])
