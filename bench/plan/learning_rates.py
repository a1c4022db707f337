"""The search for learning rates of `--lr auto`: which rates to try next, and which is best. Pure.

Modes differ in the rates that suit them. A comparison at one rate for all, or at hand-picked rates,
would compare that choice. So each model, mode with its options, layer set, unfreezing, batch size
and accumulation gets the best of the same multipliers of its default rates. Ranks of LoRA and DoRA
share the rates of the highest one: at the usual alpha this costs nothing (docs/rates.md). Unless
these exceed the default ones: then lower ranks, whose updates have a larger scale, may learn
nothing, and are searched by themselves.
Candidates train on a part of the training data and are scored on the rest: dev is never seen.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any, Final, Literal

from bench.plan.cell import CANDIDATE, ON, SEARCHED, Cell, Value, named
from bench.plan.columns import learning_rates
from bench.plan.gridfile import USUAL_BATCH, Rates, Settings
from bench.plan.rows import Row

FIRST: Final = (-1, 0, 1)  # exponents n of the multipliers √10ⁿ that are always tried
MOST: Final = 6
"""The most that are tried: further ones while the best is at an end."""
SEED: Final = 0

_RATES: Final = ("learning_rate", "learning_rate_base", "learning_rate_head")

Lookup = Callable[[Cell], Row | None]  # the row that counts for a candidate; None if it has not run

Origin = Literal["tuned", "default", "given"]
"""How a cell's rates came about: by `--lr auto`, by default, or given in a grid."""


def rates_of(rates: Rates, mode: str, layers: str | None, batch: int) -> dict[str, Any]:
    """The rates of a mode and layer set by column, for steps on a number of examples; the default
    ones change by its square root as far as that was measured. None in columns that don't apply."""
    names = "full" if mode == "full" else "adapter", "base", "head"
    applicable, factor = (
        learning_rates(mode, layers),
        math.sqrt(min(max(batch, 16), 256) / USUAL_BATCH),
    )
    own = vars(rates)
    values = (own[n] if n in rates.model_fields_set else _rounded(own[n] * factor) for n in names)
    every = dict(zip(_RATES, values, strict=True))
    return {name: rate if name in applicable else None for name, rate in every.items()}


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")


def origin_of(cell: Cell) -> Origin:
    """How a cell's rates came about; given ones that equal the defaults count as those."""
    if cell.learning_rate_source == SEARCHED:
        return "tuned"
    step = cell.batch_size * cell.gradient_accumulation_steps
    defaults = rates_of(Rates(), cell.mode, cell.layers, step)
    return "default" if all(getattr(cell, n) == r for n, r in defaults.items()) else "given"


Kind = tuple[Value, ...]  # a combination of settings that is given its own rates
_own: Final[Callable[[Cell], Kind]] = attrgetter(*named(lambda about: about.own_rates))


def kind_of(cell: Cell, *, shared: bool = True) -> Kind:
    is_usual = cell.alpha == Settings().alpha and cell.use_rslora != ON
    shares = shared and cell.mode in ("lora", "dora") and is_usual
    return (*_own(cell), None if shares else cell.rank)


def at_exponent(cell: Cell, exponent: int) -> dict[str, Any]:
    """A cell's rates, each multiplied by √10 to this power, to three digits."""
    factor = 10 ** (exponent / 2)
    rates = {name: getattr(cell, name) for name in _RATES}
    return {n: None if r is None else _rounded(r * factor) for n, r in rates.items()}


def candidate(cell: Cell, exponent: int, data_digest: str) -> Cell:
    return replace(
        cell,
        seed=SEED,
        fold=None,
        folds=None,
        data_digest=data_digest,
        learning_rate_source=CANDIDATE,
        **at_exponent(cell, exponent),
    )


class Search:
    """A search for the rates of cells that are given at their default rates, by candidates that
    train and are scored on data of a digest, and whose rows `row_of` returns. With `shared`, ranks
    share rates as far as they can."""

    def __init__(
        self, cells: Iterable[Cell], data_digest: str, row_of: Lookup, *, shared: bool = True
    ) -> None:
        self._kind_of = partial(kind_of, shared=shared)
        by_rank: dict[Kind, dict[int, Cell]] = {}
        for cell in cells:
            own, rank = by_rank.setdefault(self._kind_of(cell), {}), cell.rank or 0
            # rates found under AMP serve without it too
            own[rank] = max(own.get(rank, cell), cell, key=lambda c: c.amp != "off")
        self._cells = {kind: [own[rank] for rank in sorted(own)] for kind, own in by_rank.items()}
        self._digest = data_digest
        self._row_of = row_of

    def rounds(self) -> Iterator[list[Cell]]:
        """Lists of candidates; all of one list have to run before the next is requested."""
        exponents: dict[Kind, tuple[int, ...]] = dict.fromkeys(self._cells, FIRST)
        while exponents:
            begun = {kind: self._searched(kind) for kind in exponents}
            yield [
                candidate(begun[kind], n, self._digest)
                for kind in exponents
                for n in exponents[kind]
            ]
            following = {kind: self._following(kind, begun[kind]) for kind in exponents}
            exponents = {kind: some for kind, some in following.items() if some}
        if (alone := self._alone()) is not None:
            yield from alone.rounds()

    def _alone(self) -> "Search | None":
        """The search for the ranks below one whose best rates exceed the default ones."""
        high = [kind for kind in self._cells if (self._best(kind) or 0) > 0]
        lower = [
            cell
            for kind in high
            for cell in self._cells[kind]
            if (cell.rank or 0) < (self._searched(kind).rank or 0)
        ]
        return Search(lower, self._digest, self._row_of, shared=False) if lower else None

    def _of(self, cell: Cell) -> "Search":
        """The search that a cell's rates come from."""
        alone = self._alone()
        return self if alone is None or alone._kind_of(cell) not in alone._cells else alone

    def _following(self, kind: Kind, begun: Cell) -> tuple[int, ...]:
        """The exponent to try beyond the end at which the best one is, or all of the next rank."""
        if self._searched(kind) != begun:
            return FIRST
        tried, best = self._tried(begun), self._best(kind)
        if best is None or len(tried) >= MOST:
            return ()
        further = {min(tried): best - 1, max(tried): best + 1}.get(best)
        return () if further is None else (further,)

    def _searched(self, kind: Kind) -> Cell:
        """The cell whose candidates count: that of the highest rank, unless all of these failed,
        for want of memory for example."""
        lowest, *others = self._cells[kind]
        for cell in reversed(others):
            rows = self._tried(cell).values()
            if len(rows) < len(FIRST) or any(row.has_score for row in rows):
                return cell
        return lowest

    def _tried(self, cell: Cell) -> dict[int, Row]:
        exponents = range(1 - MOST + FIRST[-1], MOST + FIRST[0])
        rows = {n: self._row_of(candidate(cell, n, self._digest)) for n in exponents}
        return {n: row for n, row in rows.items() if row is not None}

    def _best(self, kind: Kind) -> int | None:
        """The exponent of the highest score, then of the lowest loss; None without any score."""
        scored = [
            (-(row.dev_score or 0), math.inf if row.dev_loss is None else row.dev_loss, exponent)
            for exponent, row in self._tried(self._searched(kind)).items()
            if row.has_score
        ]
        return min(scored)[2] if scored else None

    def tuned(self, cell: Cell) -> Cell | None:
        """A cell at the rates that the search found; None if all its candidates failed."""
        search = self._of(cell)
        exponent = search._best(search._kind_of(cell))
        if exponent is None:
            return None
        return replace(cell, learning_rate_source=SEARCHED, **at_exponent(cell, exponent))

    def statuses(self, cell: Cell) -> tuple[str, ...]:
        search = self._of(cell)
        tried = search._tried(search._searched(search._kind_of(cell)))
        return tuple(row.status or "" for row in tried.values())


def without_rates(cell: Cell) -> Cell:
    """A cell whose search found no rates; its id is its own, as the cell may run at others."""
    none: dict[str, Any] = dict.fromkeys(_RATES)
    return replace(cell, learning_rate_source=SEARCHED, **none)


def why_no_rates(statuses: Sequence[str]) -> str:
    ended = ", ".join(f"{number} {status}" for status, number in Counter(statuses).items())
    again = [f"--rerun {status}" for status in dict.fromkeys(statuses) if status != "ok"]
    hint = f"; {' or '.join(again)} tries them again" if again else ", without a score"
    return f"the search found no learning rate: its tries ended {ended}{hint}"


def still_lacking(rows: Sequence[Row]) -> list[Row]:
    """Rows, except those of cells that once lacked rates and have since run at found ones."""
    names = named(lambda about: about.identifies)
    key = attrgetter("conditions_id", *(name for name in names if name not in _RATES))

    def lacks(row: Row) -> bool:
        return row.learning_rate_source == SEARCHED and not any(row[name] for name in _RATES)

    searched = [row for row in rows if row.learning_rate_source == SEARCHED]
    complete = {key(row) for row in searched if not lacks(row)}
    return [row for row in rows if not lacks(row) or key(row) not in complete]
