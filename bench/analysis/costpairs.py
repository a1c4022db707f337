"""Costs of matched settings: their runs in pairs, and the logarithms of their ratios."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.analysis.matching import Machine, Match, machine_of
from bench.analysis.setting import BETWEEN_PROCESSES, Setting, place_of_run
from bench.plan.rows import Row
from bench.stats.comparing import Estimates, Floats, Ints, sample_means, unpaired
from bench.stats.intervals import Interval

CONSTANTS: Final = {
    "ms_per_1k_tokens": (BETWEEN_PROCESSES, BETWEEN_PROCESSES),
    "peak_rss_mib": (0.01, 0.04),
    "peak_cuda_allocated_mib": (0.001, 0.01),
}
"""The std of the logarithm of a cost between processes that run the same cell, and between those of
other seeds, used where there are no repeats to measure it. The seed determines the order of batches
and with it the peak. docs/comparing.md says how they were measured."""


@dataclass(frozen=True, eq=False)
class Runs:
    """The runs of K matched settings that ended ok, and the pairs that they make.

    Attributes:
        base, new: logarithms of costs by run and column, NaN where not measured [N, C].
        of_base, of_new: the setting of each run [N].
        pairs: indices of runs of BASE and of NEW of one seed, fold and repeat.
        places: these, by pair.
    """

    columns: tuple[str, ...]
    settings: int
    base: Floats
    new: Floats
    of_base: Ints
    of_new: Ints
    pairs: tuple[Ints, Ints]
    places: list[tuple[int, int, int]]

    def column(self, name: str, known: NDArray[np.bool_] | None = None) -> "Column":
        """The runs with a value in a column, and their pairs.

        Args:
            known: the settings whose values count; None: all.
        """
        place = self.columns.index(name)
        base, new = self.base[:, place], self.new[:, place]
        if known is not None:
            base = np.where(known[self.of_base], base, np.nan)
            new = np.where(known[self.of_new], new, np.nan)
        difference = new[self.pairs[1]] - base[self.pairs[0]]
        is_pair = np.isfinite(difference)
        of_pair = self.of_base[self.pairs[0][is_pair]]
        has_pair = np.bincount(of_pair, minlength=self.settings) > 0
        return Column(self, base, new, difference[is_pair], of_pair, has_pair)


@dataclass(frozen=True, eq=False)
class Column:
    """A cost of K matched settings.

    Attributes:
        base, new: logarithms by run, NaN where not measured.
        difference, of_pair: NEW − BASE by pair, and its setting.
        has_pair: by setting.
    """

    runs: Runs
    base: Floats
    new: Floats
    difference: Floats
    of_pair: Ints
    has_pair: NDArray[np.bool_]

    def numbers(self) -> tuple[Ints, Ints]:
        """The numbers of runs of BASE and NEW with a value, by setting."""
        runs = self.runs
        return (
            np.bincount(runs.of_base[np.isfinite(self.base)], minlength=runs.settings),
            np.bincount(runs.of_new[np.isfinite(self.new)], minlength=runs.settings),
        )

    def means(self) -> tuple[Floats, Floats]:
        """The means of BASE and NEW by setting, NaN without a value."""
        return tuple(  # type: ignore[return-value]
            _mean(np.exp(values), of, self.runs.settings)
            for values, of in ((self.base, self.runs.of_base), (self.new, self.runs.of_new))
        )

    def log_ratios(self, constants: tuple[float, float]) -> Estimates:
        """Estimates of log(NEW / BASE) by setting, over pairs where there are any.

        Args:
            constants: the std of one run where no setting has several, of runs in pairs and of
                those without.
        """
        runs, count = self.runs, self.runs.settings
        paired = sample_means(self.difference, self.of_pair, count, np.sqrt(2) * constants[0])
        sides = []
        for values, of in ((self.base, runs.of_base), (self.new, runs.of_new)):
            use = np.isfinite(values) & ~self.has_pair[of]
            sides.append((values[use], of[use]))
        # both sides in one pool
        samples = np.concatenate([sides[0][1], sides[1][1] + count])
        values = np.concatenate([sides[0][0], sides[1][0]])
        pool = sample_means(values, samples, 2 * count, constants[1])
        alone = unpaired(pool.part(slice(0, count)), pool.part(slice(count, 2 * count)))
        return paired.where(self.has_pair, alone)

    def ranges(self) -> tuple[Floats, Floats]:
        """The least and the largest log ratio by setting, over pairs where there are any."""
        runs, count = self.runs, self.runs.settings
        low, high = np.full(count, np.inf), np.full(count, -np.inf)
        np.minimum.at(low, self.of_pair, self.difference)
        np.maximum.at(high, self.of_pair, self.difference)
        ends = {}
        for name, values, of in (("base", self.base, runs.of_base), ("new", self.new, runs.of_new)):
            known = np.isfinite(values)
            least, most = np.full(count, np.inf), np.full(count, -np.inf)
            np.minimum.at(least, of[known], values[known])
            np.maximum.at(most, of[known], values[known])
            ends[name] = least, most
        return (
            np.where(self.has_pair, low, ends["new"][0] - ends["base"][1]),
            np.where(self.has_pair, high, ends["new"][1] - ends["base"][0]),
        )


def _mean(values: Floats, of: Ints, count: int) -> Floats:
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(
            np.bincount(of[known], values[known], count) / np.bincount(of[known], minlength=count)
        )


def runs_of(
    matches: Sequence[Match],
    columns: tuple[str, ...],
    only: tuple[Machine, Machine] | None = None,
) -> Runs:
    """The runs of matched settings, with their costs in some columns.

    Args:
        only: a machine of each side, where they are compared by one; None: all rows.
    """
    sides: tuple[list[Row], list[Row]] = ([], [])
    of: tuple[list[int], list[int]] = ([], [])
    pairs: tuple[list[int], list[int]] = ([], [])
    at: list[tuple[int, int, int]] = []
    for number, match in enumerate(matches):
        places: dict[tuple[int, int, int], int] = {}
        base, new = (
            [row for row in setting.ok if only is None or machine_of(row) == only[side]]
            for side, setting in enumerate((match.base, match.new))
        )
        for row in base:
            places[place_of_run(row)] = len(sides[0])
            sides[0].append(row)
            of[0].append(number)
        for row in new:
            place = places.get(key := place_of_run(row))
            if place is not None:
                at.append(key)
                pairs[0].append(place)
                pairs[1].append(len(sides[1]))
            sides[1].append(row)
            of[1].append(number)
    costs = attrgetter(*columns)
    logs: list[Floats] = []
    for rows in sides:
        values = np.array([costs(row) for row in rows], dtype=float).reshape(-1, len(columns))
        with np.errstate(invalid="ignore", divide="ignore"):
            logs.append(np.where(values > 0, np.log(values), np.nan))
    indices = [np.array(values, dtype=np.int64) for values in (*of, *pairs)]
    of_base, of_new, *pairs_of = indices
    return Runs(
        columns, len(matches), logs[0], logs[1], of_base, of_new, (pairs_of[0], pairs_of[1]), at
    )


def ratio_intervals(value: Floats, low: Floats, high: Floats) -> list[Interval | None]:
    """Ratios with their intervals, from their logarithms; None where a value is NaN."""
    ends = (np.exp(np.clip(one, -700, 700)).tolist() for one in (value, low, high))
    known = np.isfinite(value).tolist()
    return [
        Interval(*interval) if is_known else None
        for is_known, *interval in zip(known, *ends, strict=True)
    ]


def alternated(base: Setting, new: Setting) -> bool:
    """Whether two settings were measured in alternation: at least half of all runs started between
    the first and the last of either side."""
    times = [[row.started_at or "" for row in setting.ok] for setting in (base, new)]
    if not all(times) or not all(map(all, times)):
        return False
    first, last = max(map(min, times)), min(map(max, times))
    within = sum(first <= time <= last for side in times for time in side)
    return 2 * within >= len(times[0]) + len(times[1])
