"""The search for learning rates of `--lr auto`: which rates to try next, and which is best. Pure.

Modes differ in the rates that suit them, so a comparison at one rate for all, or at rates that
somebody chose, compares the choice. Here each mode, layer set, rank, unfreezing and batch size gets
the best of the same ladder of factors on its usual rates, found on a part of the training data and
scored on the rest of it: dev is never seen.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from bench.plan.cell import CANDIDATE, SEARCHED, Cell, Row, named
from bench.plan.columns import has_score

FIRST: Final = (-2, -1, 0, 1, 2)
"""Rungs of the ladder that are tried in any case; a rung up is a rate √10 times as high."""
LAST_RUNG: Final = 6
"""How far the ladder is extended while the best rate is at an end of it."""
SEED: Final = 0

_RATES: Final = ("learning_rate", "learning_rate_base", "learning_rate_head")

Lookup = Callable[[Cell], Row | None]
"""The row that counts for a candidate; None if it has not run."""


@dataclass(frozen=True)
class Kind:
    """What has rates of its own."""

    mode: str
    layers: str | None
    rank: int | None
    unfreeze: str | None
    batch_size: int


def kind_of(cell: Cell) -> Kind:
    """The kind of a cell."""
    return Kind(cell.mode, cell.layers, cell.rank, cell.unfreeze, cell.batch_size)


def at_rung(cell: Cell, rung: int) -> dict[str, Any]:
    """A cell's rates at a rung: all of them times √10 to that power, to three digits."""
    factor = 10 ** (rung / 2)
    usual = {name: getattr(cell, name) for name in _RATES}
    return {n: None if r is None else float(f"{r * factor:.3g}") for n, r in usual.items()}


def candidate(cell: Cell, rung: int, data_digest: str) -> Cell:
    """The candidate that tries a cell's rates at a rung, on the search's own data."""
    return replace(
        cell,
        seed=SEED,
        data_digest=data_digest,
        learning_rate_source=CANDIDATE,
        **at_rung(cell, rung),
    )


class Search:
    """A search for the rates of some cells.

    Args:
        cells: at their usual rates.
        data_digest: of the examples that candidates train on and are scored on.
        row_of: tells what has run.
    """

    def __init__(self, cells: Iterable[Cell], data_digest: str, row_of: Lookup) -> None:
        self._cells: dict[Kind, Cell] = {}
        for cell in cells:
            kind = kind_of(cell)
            known = self._cells.setdefault(kind, cell)
            if known.amp == "off" != cell.amp:  # what is tried under AMP holds without it
                self._cells[kind] = cell
        self._digest = data_digest
        self._row_of = row_of

    def rounds(self) -> Iterator[list[Cell]]:
        """Lists of candidates, each to be run before the next is asked for."""
        rungs: dict[Kind, tuple[int, ...]] = dict.fromkeys(self._cells, FIRST)
        while rungs:
            yield [self._candidate(kind, rung) for kind in rungs for rung in rungs[kind]]
            ends = {kind: self._beyond(kind) for kind in rungs}
            rungs = {kind: (rung,) for kind, rung in ends.items() if rung is not None}

    def _candidate(self, kind: Kind, rung: int) -> Cell:
        return candidate(self._cells[kind], rung, self._digest)

    def _beyond(self, kind: Kind) -> int | None:
        """The rung beyond the end of the ladder at which the best is; None if it is inside."""
        tried = self._tried(kind)
        best = self.best(kind)
        if best is None:
            return None
        if best == min(tried) and best > -LAST_RUNG:
            return best - 1
        return best + 1 if best == max(tried) and best < LAST_RUNG else None

    def _tried(self, kind: Kind) -> list[int]:
        """Rungs that have run."""
        rungs = range(-LAST_RUNG, LAST_RUNG + 1)
        return [rung for rung in rungs if self._row_of(self._candidate(kind, rung)) is not None]

    def best(self, kind: Kind) -> int | None:
        """The rung of the highest score, of equals the lowest loss; None if none has a score."""
        scored = []
        for rung in self._tried(kind):
            row = self._row_of(self._candidate(kind, rung))
            if row is not None and has_score(row):
                loss = row["dev_loss"] if isinstance(row["dev_loss"], float) else math.inf
                scored.append((-float(row["dev_score"] or 0.0), loss, rung))
        return min(scored)[2] if scored else None

    def found(self, cell: Cell) -> Cell | None:
        """A cell at the rates that the search found; None if all its candidates failed."""
        rung = self.best(kind_of(cell))
        if rung is None:
            return None
        return replace(cell, learning_rate_source=SEARCHED, **at_rung(cell, rung))

    def statuses(self, cell: Cell) -> tuple[str, ...]:
        """How the candidates for a cell's rates ended, as far as they ran."""
        kind = kind_of(cell)
        rows = [self._row_of(self._candidate(kind, rung)) for rung in self._tried(kind)]
        return tuple(str(row["status"]) for row in rows if row is not None)


def without_rates(cell: Cell) -> Cell:
    """A cell for whose rates a search found nothing: one of its own, as it may run at others."""
    none: dict[str, Any] = dict.fromkeys(_RATES)
    return replace(cell, learning_rate_source=SEARCHED, **none)


def lacks_rates(cell: Cell) -> bool:
    """Whether a cell is one that `without_rates` made."""
    return cell == without_rates(cell)


def why_no_rates(statuses: Sequence[str]) -> str:
    """The message of a cell that is skipped because all candidates for its rates failed."""
    ended = ", ".join(f"{number} {status}" for status, number in Counter(statuses).items())
    again = [f"--rerun {status}" for status in dict.fromkeys(statuses) if status != "ok"]
    hint = f"; {' or '.join(again)} tries them again" if again else ", without a score"
    return f"the search found no learning rate: its tries ended {ended}{hint}"


def still_lacking(rows: Sequence[Row]) -> list[Row]:
    """Rows without those of cells that lacked rates once, and have since run at found ones."""
    names = ("conditions_id", *named(lambda about: about.identifies))
    names = tuple(name for name in names if name not in _RATES)

    def lacks(row: Row) -> bool:
        return row.get("learning_rate_source") == SEARCHED and not any(map(row.get, _RATES))

    have = {
        tuple(map(row.get, names))
        for row in rows
        if row.get("learning_rate_source") == SEARCHED and not lacks(row)
    }
    return [row for row in rows if not lacks(row) or tuple(map(row.get, names)) not in have]
