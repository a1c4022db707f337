"""Costs of matched settings: their runs in pairs, and the logarithms of their ratios."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.analysis.matching import Machine, Match, machine_of
from bench.analysis.setting import BETWEEN_PROCESSES, Setting, place_of_run
from bench.plan.rows import TIMING_FLAGS, Row
from bench.stats.comparing import Estimates, Floats, Ints, sample_means, unpaired
from bench.stats.intervals import Interval

_TIME: Final = "ms_per_1k_tokens"
CONSTANTS: Final = {
    _TIME: (BETWEEN_PROCESSES, BETWEEN_PROCESSES),
    "peak_rss_mib": (0.01, 0.04),
    "peak_cuda_allocated_mib": (0.001, 0.01),
}
"""The std of the logarithm of a cost between processes that run the same cell, and between those of
other seeds, used where there are no repeats to measure it. The seed determines the order of batches
and with it the peak. docs/comparing.md says how they were measured."""

_SOUND: Final = 2


@dataclass(frozen=True, eq=False)
class Runs:
    """The runs of K matched settings that ended ok, and the pairs that they make.

    A unit is the runs of one seed and fold of a setting.

    Attributes:
        shared: the setting of BASE of each match, as a number [K].
        of_unit: the setting of each unit [U].
        base, new: costs by run and column, NaN where not measured [N, C].
        unit_base, unit_new: the unit of each run [N].
        pairs: indices of runs of BASE and of NEW of one unit.
        places: seed, fold and BASE's repeat, by pair.
    """

    columns: tuple[str, ...]
    shared: Ints
    of_unit: Ints
    base: Floats
    new: Floats
    unit_base: Ints
    unit_new: Ints
    pairs: tuple[Ints, Ints]
    places: list[tuple[int, int, int]]

    @property
    def settings(self) -> int:
        """K."""
        return len(self.shared)

    @property
    def of_base(self) -> Ints:
        """The setting of each run of BASE."""
        return self.of_unit[self.unit_base]

    def means(self, name: str) -> tuple[Estimates, Estimates]:
        """The means of BASE and NEW in a column by setting."""
        place = self.columns.index(name)
        base, new = (
            sample_means(values[:, place], self.of_unit[unit], self.settings, 0.0)
            for values, unit in ((self.base, self.unit_base), (self.new, self.unit_new))
        )
        return base, new

    def column(self, name: str, known: NDArray[np.bool_] | None = None) -> "Column":
        """The runs with a value in a column, and their pairs.

        Args:
            known: the settings whose values count; None: all.
        """
        place = self.columns.index(name)
        counts = np.ones(self.settings, dtype=bool) if known is None else known
        base, new = (
            np.where(counts[self.of_unit[unit]], np.log(values[:, place]), np.nan)
            for values, unit in ((self.base, self.unit_base), (self.new, self.unit_new))
        )
        difference = new[self.pairs[1]] - base[self.pairs[0]]
        return Column(self, base, new, difference, self.of_base[self.pairs[0]])


@dataclass(frozen=True, eq=False)
class Column:
    """A cost of K matched settings.

    Attributes:
        base, new: logarithms by run, NaN where not measured.
        difference, of_pair: NEW − BASE by pair, NaN where not measured, and its setting.
    """

    runs: Runs
    base: Floats
    new: Floats
    difference: Floats
    of_pair: Ints

    @property
    def has_pair(self) -> NDArray[np.bool_]:
        """By setting."""
        known = np.isfinite(self.difference)
        return np.bincount(self.of_pair[known], minlength=self.runs.settings) > 0

    def log_ratios(self, constants: tuple[float, float]) -> Estimates:
        """Estimates of log(NEW / BASE) by setting, over pairs where there are any.

        Without pairs they are over units, since runs of one seed don't show how seeds differ.
        Settings of NEW that are compared with one of BASE have its noise in common, by which fewer
        degrees of freedom count: with equal noise of both sides, as many as by these weights.

        Args:
            constants: the std of one run where no setting has several, of runs in pairs and of
                those without.
        """
        runs, count = self.runs, self.runs.settings
        times = np.bincount(runs.shared)[runs.shared]
        std = np.sqrt(2) * constants[0]
        paired = sample_means(self.difference, self.of_pair, count, std, 4 / (times + 3))
        # both sides in one pool
        sides = ((self.base, runs.unit_base), (self.new, runs.unit_new))
        units = [sample_means(*side, len(runs.of_unit), 0.0).value for side in sides]
        values = np.where(self.has_pair[runs.of_unit], np.nan, units).ravel()
        samples = np.concatenate([runs.of_unit, runs.of_unit + count])
        weights = np.tile(2 / (times + 1), 2)
        pool = sample_means(values, samples, 2 * count, constants[1], weights)
        alone = unpaired(pool.part(slice(0, count)), pool.part(slice(count, 2 * count)))
        return paired.where(self.has_pair, alone)

    def ranges(self) -> tuple[Floats, Floats]:
        """The least and the largest log ratio of pairs by setting."""
        low, high = (np.full(self.runs.settings, end) for end in (np.inf, -np.inf))
        np.fmin.at(low, self.of_pair, self.difference)
        np.fmax.at(high, self.of_pair, self.difference)
        return low, high


def runs_of(
    matches: Sequence[Match],
    columns: tuple[str, ...],
    only: tuple[Machine, Machine] | None = None,
) -> Runs:
    """The runs of matched settings, with their costs in some columns.

    Runs of one seed, fold and repeat are a pair; without a common repeat of a seed and fold, those
    of one rank. Times that a flag puts in doubt don't count where at least two pairs have none.

    Args:
        only: a machine of each side, where they are compared by one; None: all rows.
    """
    rows: tuple[list[Row], list[Row]] = ([], [])
    unit_of: tuple[list[int], list[int]] = ([], [])
    units: dict[tuple[int, int, int], tuple[int, tuple[dict[int, int], dict[int, int]]]] = {}
    bases: dict[int, int] = {}
    for number, match in enumerate(matches):
        bases.setdefault(id(match.base), len(bases))
        for side, setting in enumerate((match.base, match.new)):
            for row in setting.ok:
                if only is None or machine_of(row) == only[side]:
                    seed, fold, repeat = place_of_run(row)
                    unit, repeats = units.setdefault((number, seed, fold), (len(units), ({}, {})))
                    repeats[side][repeat] = len(rows[side])
                    rows[side].append(row)
                    unit_of[side].append(unit)
    pairs: list[tuple[int, int]] = []
    places: list[tuple[int, int, int]] = []
    for (_, seed, fold), (_, (base, new)) in units.items():
        common = base.keys() & new.keys()
        for one, other in zip(sorted(common or base), sorted(common or new), strict=False):
            pairs.append((base[one], new[other]))
            places.append((seed, fold, one))
    costs = attrgetter(*columns)
    figures = [
        np.array([costs(row) for row in side], dtype=float).reshape(-1, len(columns))
        for side in rows
    ]
    for values in figures:
        values[~(values > 0)] = np.nan
    of_unit = np.array([number for number, *_ in units], dtype=np.int64)
    units_of = [np.array(side, dtype=np.int64) for side in unit_of]
    pair_base, pair_new = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    if _TIME in columns:
        doubtful = [
            np.array([not set(TIMING_FLAGS).isdisjoint(row.flag_names) for row in side], dtype=bool)
            for side in rows
        ]
        is_sound = ~(doubtful[0][pair_base] | doubtful[1][pair_new])
        of_pair = of_unit[units_of[0][pair_base[is_sound]]]
        has_sound = np.bincount(of_pair, minlength=len(matches)) >= _SOUND
        for values, is_doubtful, of in zip(figures, doubtful, units_of, strict=True):
            values[is_doubtful & has_sound[of_unit[of]], columns.index(_TIME)] = np.nan
    shared = np.array([bases[id(match.base)] for match in matches], dtype=np.int64)
    return Runs(
        columns, shared, of_unit, figures[0], figures[1], units_of[0], units_of[1],
        (pair_base, pair_new), places,
    )  # fmt: skip


def ratio_intervals(value: Floats, low: Floats, high: Floats) -> list[Interval | None]:
    """Ratios with their intervals, from their logarithms; None where a value is NaN."""
    ends = (np.exp(np.clip(one, -700, 700)).tolist() for one in (value, low, high))
    known = np.isfinite(value).tolist()
    return [
        Interval(*interval) if is_known else None
        for is_known, *interval in zip(known, *ends, strict=True)
    ]


def alternated(base: Setting, new: Setting) -> bool:
    """Whether two settings were measured in alternation: in the order of their starts the side
    changes at least twice, and once for every four runs.

    Runs of both that start at once, as in a file compared with itself, count as two changes.
    """
    starts = sorted(
        (row.started_at or "", i, side)
        for side, setting in enumerate((base, new))
        for i, row in enumerate(setting.ok)
    )
    turns = sum(
        (side != next_side) * (1 + (at == next_at))
        for (at, _, side), (next_at, _, next_side) in pairwise(starts)
    )
    return all(at for at, _, _ in starts) and turns >= max(2, len(starts) / 4)
