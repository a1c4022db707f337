"""A setting: a point of the grid over its seeds and repeats, with what these measured."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log
from statistics import fmean
from typing import Final

import numpy as np

from bench.plan.cell import Row, Value
from bench.results.outcomes import Values, ValuesOf, no_values
from bench.stats.intervals import Interval, Std, mean_t, pooled, scattered, spread, widened

Run = tuple[int, int, str]
"""A run of a setting: seed, repeat, and version of the code."""

BETWEEN_PROCESSES: Final = 0.06
"""The standard std of the logarithms of times between processes that do the same, where no
repeats show it. docs/measuring.md says from what it was taken."""
_ENDS: Final = {
    "dev_score": ("dev_ci_low", "dev_ci_high"),
    "step_ms_median": ("step_ms_ci_low", "step_ms_ci_high"),
    "ms_per_1k_tokens": ("ms_per_1k_tokens_ci_low", "ms_per_1k_tokens_ci_high"),
}
_SCORE: Final = "dev_score"


def number(value: Value) -> float | None:
    """A value as a float, or None if it is empty or no number."""
    return float(value) if isinstance(value, int | float) else None


def between_processes(rows: Iterable[Row], column: str) -> Std | None:
    """How far processes that do the same are apart in a column, as a std of logarithms.

    From all runs of the same cell, repeats and versions of the code, where a cell has several; else
    for times a constant, and for other columns nothing.
    """
    repeats: dict[Value, list[float]] = {}
    for row in rows:
        value = number(row.get(column))
        if row.get("status") == "ok" and value is not None and value > 0:
            repeats.setdefault(row.get("cell_id"), []).append(log(value))
    measured = pooled(repeats.values())
    if measured is None and column in _ENDS:
        return Std(BETWEEN_PROCESSES)
    return measured


def _not_known(_column: str) -> Std | None:
    return None


@dataclass(frozen=True, eq=False)
class Setting:
    """A point of the grid without its seed, and the rows of its runs, whatever their status.

    Attributes:
        elsewhere: rows of other machines whose scores count for seeds that have none here.
        tells_rate, tells_frozen: whether its name needs its rate, or how frozen weights are held,
            as another setting of the group is the same otherwise.
        between: as `between_processes` of the group's rows, by column.
    """

    mode: str
    rank: int | None
    layers: str | None
    amp: str
    unfreeze: str | None
    frozen: str | None
    rate: float | None
    rows: tuple[Row, ...]
    elsewhere: tuple[Row, ...] = ()
    tells_rate: bool = False
    tells_frozen: bool = False
    values_of: ValuesOf = no_values
    between: Callable[[str], Std | None] = _not_known

    @property
    def adapted(self) -> bool:
        """Whether it carries adapters."""
        return self.layers is not None

    @property
    def label(self) -> str:
        """Its name in sentences and tables, such as `lora rank 8 on all-lin-only, bf16`."""
        frozen = f", frozen weights {self.frozen}" if self.tells_frozen and self.frozen else ""
        return f"{self.plain_label}{frozen}"

    @property
    def plain_label(self) -> str:
        """Its name without how frozen weights are held."""
        rank = "" if self.rank is None else f" rank {self.rank}"
        adapter = f"{rank} on {self.layers}" if self.adapted else ""
        rate = f", rate {self.rate:g}" if self.tells_rate and self.rate is not None else ""
        unfreezing = ", unfreezing" if self.unfreezes else ""
        return (
            f"{self.mode}{adapter}{unfreezing}, {'fp32' if self.amp == 'off' else self.amp}{rate}"
        )

    @property
    def unfreezes(self) -> bool:
        """Whether layers are unfrozen one after the other."""
        return self.unfreeze not in (None, "all")

    @cached_property
    def ok(self) -> tuple[Row, ...]:
        """The rows that ended ok."""
        return tuple(row for row in self.rows if row.get("status") == "ok")

    @cached_property
    def scored(self) -> tuple[Row, ...]:
        """The rows whose scores count, those of other machines included."""
        return (*self.ok, *self.elsewhere)

    @cached_property
    def learned(self) -> bool:
        """False if any of its seeds was flagged as having learned nothing."""
        return not any("not_learned" in str(row.get("flags") or "").split() for row in self.scored)

    @cached_property
    def values(self) -> dict[int, Values]:
        """By seed, the numbers of the dev examples whose mean is the score, where kept.

        Repeats of a seed are the same training, and count once: the mean of their numbers.
        """
        kept: dict[int, list[Values]] = {}
        for row in self.scored:
            if (values := self.values_of(row)) is not None:
                kept.setdefault(_seed(row), []).append(values)
        return {
            seed: of[0] if len(of) == 1 else np.mean(of, axis=0)
            for seed, of in kept.items()
            if len({len(values) for values in of}) == 1
        }

    @cached_property
    def scores(self) -> dict[int, float]:
        """The dev score by seed, the mean over its repeats."""
        found: dict[int, list[float]] = {}
        for row in self.scored:
            if (score := number(row.get(_SCORE))) is not None:
                found.setdefault(_seed(row), []).append(score)
        return {seed: fmean(scores) for seed, scores in found.items()}

    def by_run(self, column: str) -> dict[Run, float]:
        """Values of a column in the rows that ended ok, by run."""
        if column not in self._by_run:
            values = ((_run(row), number(row.get(column))) for row in self.ok)
            self._by_run[column] = {run: value for run, value in values if value is not None}
        return self._by_run[column]

    @cached_property
    def _by_run(self) -> dict[str, dict[Run, float]]:
        return {}

    def estimate(self, column: str) -> Interval | None:
        """Mean and interval: of scores over seeds, of all else over all runs.

        A single run has its row's own interval, if there is one. Scores whose predictions are kept
        vary by seeds and dev examples, else by seeds alone. Runs of one seed vary at least as all
        runs of the same cell do, in the group.
        """
        if column not in self._estimates:
            estimate = self._score() if column == _SCORE else self._cost(column)
            self._estimates[column] = estimate
        return self._estimates[column]

    @cached_property
    def _estimates(self) -> dict[str, Interval | None]:
        return {}

    def _score(self) -> Interval | None:
        scores, kept = self.scores, self.values
        if not scores:
            return None
        if len(scores) == 1:
            return _mean_interval(
                [row for row in self.scored if number(row.get(_SCORE)) is not None]
            )
        if kept.keys() == scores.keys() and len({len(each) for each in kept.values()}) == 1:
            return spread(np.stack(list(kept.values()))).interval()
        return mean_t(list(scores.values()))

    def _cost(self, column: str) -> Interval | None:
        rows = {_run(row): row for row in self.ok if number(row.get(column)) is not None}
        if not rows:
            return None
        std = self.between(column)
        runs = [_own_interval(row, column) for row in rows.values()]
        if len(runs) == 1:
            return runs[0] if std is None else widened(runs[0], std)
        if len({seed for seed, _, _ in rows}) == 1 and std is not None:
            return scattered(runs, std)
        return mean_t([run.value for run in runs])


def _seed(row: Row) -> int:
    return int(row.get("seed") or 0)


def _run(row: Row) -> Run:
    return _seed(row), int(row.get("repeat") or 1), str(row.get("code_version") or "")


def _own_interval(row: Row, column: str) -> Interval:
    """A row's value with the interval that the row itself holds."""
    low, high = (number(row.get(name)) for name in _ENDS.get(column, ("", "")))
    return Interval(number(row[column]) or 0.0, low, high)


def _mean_interval(rows: Sequence[Row]) -> Interval:
    """The score of one seed: of its repeats, which are the same training, the mean of all ends."""
    intervals = [_own_interval(row, _SCORE) for row in rows]
    ends = [pair for one in intervals if (pair := one.ends())]
    value = fmean(one.value for one in intervals)
    if len(ends) < len(intervals):
        return Interval(value)
    return Interval(value, fmean(low for low, _ in ends), fmean(high for _, high in ends))
