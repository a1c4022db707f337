"""Two machines, compared through the settings that both ran.

Costs of different machines can't be set against each other as those of one can: what is compared is
what a setting gains over full fine-tuning in fp32 of the same seeds on the same machine.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.analysis.costpairs import BETWEEN_PROCESSES, CONSTANTS, Runs, ratio_intervals, runs_of
from bench.analysis.groups import settings_key
from bench.analysis.matching import Machine, Match, machine_name, machine_of
from bench.stats.comparing import FAMILY, Estimates, sample_means
from bench.stats.intervals import Interval, Ints, quantile


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
    costs = {"ms_per_1k_tokens": "time"}
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
    drift = {"ms_per_1k_tokens": math.sqrt(2) * BETWEEN_PROCESSES}
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
