"""Costs of matched settings: their runs in pairs, the logarithms of their ratios, and two machines,
compared through the settings that both ran.

Costs of different machines can't be set against each other as those of one can: what is compared is
what a setting gains over full fine-tuning in fp32 of the same seeds on the same machine.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.analysis.groups import settings_key
from bench.analysis.matching import Machine, Match, machine_name, machine_of
from bench.analysis.setting import Setting, place_of_run
from bench.plan.rows import TIMING_FLAGS, Row
from bench.stats.comparing import FAMILY, Estimates, sample_means, unpaired
from bench.stats.intervals import Floats, Interval, Ints, quantile

_TIME: Final = "ms_per_1k_tokens"
BETWEEN_PROCESSES: Final = 0.06
"""The assumed std of the logarithms of times between processes that do the same work, and between
sessions; docs/measuring.md says how it was measured."""
CONSTANTS: Final = {
    _TIME: (BETWEEN_PROCESSES, BETWEEN_PROCESSES),
    "peak_rss_mib": (0.01, 0.04),
    "peak_cuda_allocated_mib": (0.001, 0.01),
}
"""The std of the logarithm of a cost between processes that run the same cell, and between those of
other seeds, used where there are no repeats to measure it. The seed determines the order of batches
and with it the peak. docs/comparing.md says how they were measured."""


@dataclass(frozen=True, eq=False)
class Runs:
    """The runs of K matched settings that ended ok, and the pairs that they make. A unit is the
    runs of one seed and fold of a setting."""

    columns: tuple[str, ...]
    shared: Ints  # the setting of BASE of each match, as a number [K]
    of_unit: Ints  # the setting of each unit [U]
    values: Sequence[Floats]  # of BASE and NEW, costs by run and column; NaN: not measured [N, C]
    units: Sequence[Ints]  # of BASE and NEW, the unit of each run [N]
    pairs: Ints  # indices of runs of BASE and NEW of one unit [2, P]
    of_pair: Ints  # the setting of each pair [P]
    places: list[tuple[int, int, int]]  # seed, fold and BASE's repeat, by pair

    def means(self, name: str) -> list[Estimates]:
        """The means of BASE and NEW in a column by setting."""
        column, count = self.columns.index(name), len(self.shared)
        return [
            sample_means(values[:, column], self.of_unit[units], count, 0.0)
            for values, units in zip(self.values, self.units, strict=True)
        ]

    def logs(self, name: str) -> list[Floats]:
        """The logarithms of a column by run of BASE and of NEW."""
        return [np.log(values[:, self.columns.index(name)]) for values in self.values]

    def differences(self, name: str) -> Floats:
        """The log ratio NEW / BASE of a column by pair, NaN where not measured."""
        base, new = self.logs(name)
        return np.asarray(new[self.pairs[1]] - base[self.pairs[0]])

    def has_pair(self, name: str) -> NDArray[np.bool_]:
        """By setting, whether a column was measured in a pair of runs."""
        known = np.isfinite(self.differences(name))
        return np.bincount(self.of_pair[known], minlength=len(self.shared)) > 0

    def log_ratios(self, name: str, known: NDArray[np.bool_] | None = None) -> Estimates:
        """Estimates of log(NEW / BASE) of a column by setting, over pairs where there are any; none
        for settings that are not `known`.

        Without pairs they are over units, since runs of one seed don't show how seeds differ.
        Settings of NEW that are compared with one of BASE have its noise in common, by which fewer
        degrees of freedom count: with equal noise of both sides, as many as by these weights.
        """
        count = len(self.shared)
        of_pairs, of_seeds = CONSTANTS.get(name, (0.0, 0.0))
        counts = np.ones(count, dtype=bool) if known is None else known
        times = np.bincount(self.shared)[self.shared]
        differences = np.where(counts[self.of_pair], self.differences(name), np.nan)
        std = np.sqrt(2) * of_pairs
        paired = sample_means(differences, self.of_pair, count, std, 4 / (times + 3))
        # both sides in one pool
        has_pair = self.has_pair(name)
        sides = zip(self.logs(name), self.units, strict=True)
        means = [sample_means(*side, len(self.of_unit), 0.0).value for side in sides]
        values = np.where((counts & ~has_pair)[self.of_unit], means, np.nan).ravel()
        samples = np.concatenate([self.of_unit, self.of_unit + count])
        pool = sample_means(values, samples, 2 * count, of_seeds, np.tile(2 / (times + 1), 2))
        alone = unpaired(pool.part(slice(0, count)), pool.part(slice(count, 2 * count)))
        return paired.where(has_pair, alone)

    def ranges(self, name: str) -> tuple[Floats, Floats]:
        """The least and the largest log ratio of a column's pairs by setting."""
        low, high = (np.full(len(self.shared), end) for end in (np.inf, -np.inf))
        differences = self.differences(name)
        np.fmin.at(low, self.of_pair, differences)
        np.fmax.at(high, self.of_pair, differences)
        return low, high


def runs_of(
    matches: Sequence[Match], columns: tuple[str, ...], only: tuple[Machine, Machine] | None = None
) -> Runs:
    """The runs of matched settings, with their costs in some columns, one of which is the time, on
    one machine of each side or on all.

    Runs of one seed, fold and repeat are a pair; without a common repeat of a seed and fold, those
    of one rank. Times that a flag puts in doubt don't count where at least two pairs have none.
    """
    rows: tuple[list[Row], list[Row]] = ([], [])
    unit_of: tuple[list[int], list[int]] = ([], [])
    units: dict[tuple[int, int, int], tuple[int, tuple[dict[int, int], dict[int, int]]]] = {}
    bases: dict[int, int] = {}
    for number, match in enumerate(matches):
        bases.setdefault(id(match.base), len(bases))
        for side, setting in enumerate(match.sides):
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
    costs, flags = attrgetter(*columns), set(TIMING_FLAGS)
    of_unit = np.array([number for number, *_ in units], dtype=np.int64)
    units_of = [np.array(side, dtype=np.int64) for side in unit_of]
    of_runs = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    of_pair = of_unit[units_of[0][of_runs[0]]]
    doubtful = [np.array([bool(flags & {*r.flag_names}) for r in side], bool) for side in rows]
    is_sound = ~(doubtful[0][of_runs[0]] | doubtful[1][of_runs[1]])
    has_sound = np.bincount(of_pair[is_sound], minlength=len(matches)) >= 2
    values = []
    for side_rows, side_units, is_doubtful in zip(rows, units_of, doubtful, strict=True):
        figures = np.array([costs(row) for row in side_rows], float).reshape(-1, len(columns))
        figures[~(figures > 0)] = np.nan
        figures[is_doubtful & has_sound[of_unit[side_units]], columns.index(_TIME)] = np.nan
        values.append(figures)
    shared = np.array([bases[id(match.base)] for match in matches], dtype=np.int64)
    return Runs(columns, shared, of_unit, values, units_of, of_runs, of_pair, places)


def ratio_intervals(value: Floats, low: Floats, high: Floats) -> list[Interval | None]:
    """Ratios with their intervals, from their logarithms; None where a value is NaN."""
    ratios = np.exp(np.clip([value, low, high], -700, 700)).T.tolist()
    return [Interval(*ends) if math.isfinite(ends[0]) else None for ends in ratios]


def alternated(base: Setting, new: Setting) -> bool:
    """Whether two settings were measured in alternation: in the order of their starts the side
    changes at least twice, and once for every four runs. Runs of both that start at once, as in a
    file compared with itself, count as two changes."""
    starts = sorted(
        (row.started_at or "", i, side)
        for side, setting in enumerate((base, new))
        for i, row in enumerate(setting.ok)
    )
    changes = sum(
        (side != next_side) * (1 + (at == next_at))
        for (at, _, side), (next_at, _, next_side) in pairwise(starts)
    )
    return all(at for at, _, _ in starts) and changes >= max(2, len(starts) / 4)


@dataclass(frozen=True)
class MachineCost:
    """A cost of a setting on NEW's machine, relative to BASE's; below 1, `normalised` shows that
    the setting gains more on NEW's machine."""

    column: str  # of runs.csv
    label: str  # the cost in words
    absolute: Interval  # the ratio NEW / BASE
    normalised: Interval | None  # to full fine-tuning in fp32 there; None: not on both


@dataclass(frozen=True)
class MachineRow:
    label: str
    costs: tuple[MachineCost, ...]


@dataclass(frozen=True)
class Machines:
    """Settings that both machines ran: the machines' names, the costs by setting, what could not be
    compared (empty: everything was), and a sentence on the number of intervals and their level."""

    base: str
    new: str
    rows: tuple[MachineRow, ...]
    why: str
    family: str


def machines_of(matches: Sequence[Match], labels: Sequence[str]) -> Machines | None:
    """The comparison of both sides' machines, those with the most runs, over matches with these
    labels; None where nothing of one measurement_version ran on both, or one was shared in another
    way than the other."""
    labelled = zip(matches, labels, strict=True)
    both = [(m, label) for m, label in labelled if m.machine is None and m.base.ok and m.new.ok]
    if not both:
        return None
    sides = [Counter(machine_of(row) for m, _ in both for row in m.sides[i].ok) for i in (0, 1)]
    base, new = (side.most_common(1)[0][0] for side in sides)
    chosen = [(m, label) for m, label in both if len(versions_of(m, (base, new))) == 1]
    if base[4:] != new[4:] or not chosen:
        return None
    notes = []
    if any(len(side) > 1 for side in sides):
        notes.append("of several machines of a side, the one with the most runs is compared")
    if left_out := len(both) - len(chosen):
        were = "setting was" if left_out == 1 else "settings were"
        notes.append(f"{left_out} {were} left out, not run on both or measured in other ways")
    costs = {_TIME: "time"}
    if base[0] == new[0]:
        costs["peak_rss_mib" if base[0] == "cpu" else "peak_cuda_allocated_mib"] = "peak memory"
    else:
        notes.append(f"memory on a {base[0]} and on a {new[0]} is not comparable")
    chosen_matches = [match for match, _ in chosen]
    runs, reference = runs_of(chosen_matches, (*costs,), (base, new)), _references(chosen_matches)
    if not (reference >= 0).any():
        without = "without full fine-tuning in fp32 on both machines"
        notes.append(f"{without}, absolute figures are all there is")
    estimates = [(runs.log_ratios(n), _normalised(runs, n, reference)) for n in costs]
    number = sum(int(np.isfinite(one.error).sum()) for pair in estimates for one in pair)
    level = FAMILY / max(number, 1)
    drift = {_TIME: math.sqrt(2) * BETWEEN_PROCESSES}
    by_setting: list[list[MachineCost]] = [[] for _ in chosen]
    for (column, name), (absolute, normalised) in zip(costs.items(), estimates, strict=True):
        intervals = _intervals(absolute, level, drift.get(column, 0.0))
        relative = _intervals(normalised, level)
        for own, interval, ratio in zip(by_setting, intervals, relative, strict=True):
            if interval is not None:
                own.append(MachineCost(column, name, interval, ratio))
    every = zip(chosen, by_setting, strict=True)
    rows = tuple(MachineRow(label, tuple(own)) for (_, label), own in every if own)
    family = f"All {number} intervals hold at once with 95% probability (Bonferroni)."
    return Machines(machine_name(base), machine_name(new), rows, "; ".join(notes), family)


def versions_of(match: Match, only: tuple[Machine, Machine] | None = None) -> set[int]:
    """The measurement versions of a match's runs, on one machine of each side; empty where one side
    has no run there."""
    sides = [
        {r.measurement_version for r in setting.ok if only is None or machine_of(r) == only[i]}
        for i, setting in enumerate(match.sides)
    ]
    return sides[0] | sides[1] if all(sides) else set()


def _intervals(estimates: Estimates, level: float, drift: float = 0.0) -> list[Interval | None]:
    """The intervals of ratios, with the drift between sessions, as a std of logarithms."""
    ends = estimates.ends(level, quantile(level, math.inf) * drift)
    return ratio_intervals(estimates.value, *ends)


def _references(matches: Sequence[Match]) -> Ints:
    """By match the index of full fine-tuning in fp32 in the same groups; −1 without."""
    groups = [tuple(settings_key(side.rows[0]) for side in m.sides) for m in matches]
    full = {
        groups[i]: i
        for i, m in enumerate(matches)
        if m.base.label == m.new.label
        and m.new.mode == "full"
        and m.new.amp == "off"
        and not m.new.unfreezes
    }
    return np.array([full.get(group, -1) for group in groups])


def _normalised(runs: Runs, column: str, reference: Ints) -> Estimates:
    """Estimates of the log ratio of ratios to the reference's, over runs of one seed and repeat."""
    pairs = zip(runs.of_pair.tolist(), runs.places, strict=True)
    by_place = dict(zip(pairs, runs.differences(column), strict=True))
    values, samples = [], []
    for (setting, place), change in by_place.items():
        value = change - by_place.get((int(reference[setting]), place), np.nan)
        if reference[setting] != setting and np.isfinite(value):
            values.append(value)
            samples.append(setting)
    index = np.array(samples, dtype=np.int64)
    weights = 4 / (len(set(samples)) + 3)  # all have the reference's runs in common
    std = 2 * CONSTANTS[column][0]
    return sample_means(np.array(values), index, len(reference), std, weights)
