"""The search for learning rates of `--lr auto`: which rates to try next, and which is best. Pure.

Modes differ in the rates that suit them, so a comparison at one rate for all, or at rates that
somebody chose, compares the choice. Here each mode, layer set, rank, unfreezing and batch size gets
the best of the same multipliers on its usual rates, found on a part of the training data and scored
on the rest of it: dev is never seen.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from bench.plan.cell import CANDIDATE, SEARCHED, Cell, Row, named
from bench.plan.columns import has_score

FIRST: Final = (-2, -1, 0, 1, 2)
"""Exponents of the multipliers √10ⁿ that are tried in any case."""
LAST_EXPONENT: Final = 6
"""How far exponents go on while the best rate is at an end of those tried."""
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


def at_exponent(cell: Cell, exponent: int) -> dict[str, Any]:
    """A cell's rates, all of them times √10 to this power, to three digits."""
    factor = 10 ** (exponent / 2)
    usual = {name: getattr(cell, name) for name in _RATES}
    return {n: None if r is None else float(f"{r * factor:.3g}") for n, r in usual.items()}


def candidate(cell: Cell, exponent: int, data_digest: str) -> Cell:
    """The candidate that tries a cell's rates at an exponent, on the search's own data."""
    return replace(
        cell,
        seed=SEED,
        data_digest=data_digest,
        learning_rate_source=CANDIDATE,
        **at_exponent(cell, exponent),
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
        exponents: dict[Kind, tuple[int, ...]] = dict.fromkeys(self._cells, FIRST)
        while exponents:
            yield [self._candidate(kind, n) for kind in exponents for n in exponents[kind]]
            ends = {kind: self._beyond(kind) for kind in exponents}
            exponents = {kind: (n,) for kind, n in ends.items() if n is not None}

    def _candidate(self, kind: Kind, exponent: int) -> Cell:
        return candidate(self._cells[kind], exponent, self._digest)

    def _beyond(self, kind: Kind) -> int | None:
        """The exponent beyond the end at which the best is; None if the best is at no end."""
        tried = self._tried(kind)
        best = self.best(kind)
        if best is None:
            return None
        if best == min(tried) and best > -LAST_EXPONENT:
            return best - 1
        return best + 1 if best == max(tried) and best < LAST_EXPONENT else None

    def _tried(self, kind: Kind) -> list[int]:
        """Rungs that have run."""
        exponents = range(-LAST_EXPONENT, LAST_EXPONENT + 1)
        return [n for n in exponents if self._row_of(self._candidate(kind, n)) is not None]

    def best(self, kind: Kind) -> int | None:
        """That of the highest score, of equals the lowest loss; None if none has a score."""
        scored = []
        for exponent in self._tried(kind):
            row = self._row_of(self._candidate(kind, exponent))
            if row is not None and has_score(row):
                loss = row["dev_loss"] if isinstance(row["dev_loss"], float) else math.inf
                scored.append((-float(row["dev_score"] or 0.0), loss, exponent))
        return min(scored)[2] if scored else None

    def found(self, cell: Cell) -> Cell | None:
        """A cell at the rates that the search found; None if all its candidates failed."""
        exponent = self.best(kind_of(cell))
        if exponent is None:
            return None
        return replace(cell, learning_rate_source=SEARCHED, **at_exponent(cell, exponent))

    def statuses(self, cell: Cell) -> tuple[str, ...]:
        """How the candidates for a cell's rates ended, as far as they ran."""
        kind = kind_of(cell)
        rows = [self._row_of(self._candidate(kind, n)) for n in self._tried(kind)]
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
