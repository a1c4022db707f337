"""What comparisons, histories and intervals of times find and cover, by simulation and in the real
repeats."""

import math
from itertools import product
from statistics import fmean, median

import numpy as np

from bench.analysis.comparison import Verdict
from bench.analysis.groups import groups
from bench.stats.changepoints import autoregressive, change_points
from bench.stats.intervals import Interval
from bench.stats.steptimes import training_times
from tests.experiments.comparing.alarms import Simulated, in_rounds, until

SCATTERS = (0.02, 0.04, 0.07, 0.10)
"""Stds of the logarithms of times between processes that do the same work."""
SLOWDOWNS = (0.10, 0.20)
ROUNDS = (8, 24, 48)
_MOST = 200  # most repeats that are simulated; a setting for which more are named is not counted


def _draw(scatter, rounds, slowdown, seed):
    more = {"slowdown": math.log1p(slowdown), "scatter": scatter, "disturbed": 0.0}
    return Simulated("", 1, 1, rounds, **more).draw(np.random.default_rng(seed))


def _time(comparison):
    return next(one for pair, one in comparison.results if pair and one.measure.kind == "time")


def _first(draw, rounds):
    return until(draw, {row.cell_id: rounds for row in draw.base})


def power(draws):
    """By scatter, slowdown and most rounds, in how many draws of one setting it is a regression."""
    for scatter, slowdown in product(SCATTERS, SLOWDOWNS):
        slower = dict.fromkeys(ROUNDS, 0)
        for seed in range(draws):
            whole = _draw(scatter, max(ROUNDS), slowdown, seed)
            for rounds in ROUNDS:
                draw, looks = in_rounds(_first(whole, rounds), rounds)
                slower[rounds] += _time(draw.compared((), looks)).verdict is Verdict.REGRESSION
        common = {"scatter": scatter, "slowdown": slowdown, "draws": draws}
        yield from ({**common, "rounds": n, "found": number} for n, number in slower.items())


def needed(draws):
    """By scatter and slowdown, in how many undecided draws the number of repeats decides that is
    named after the first 4 or 8."""
    for scatter, slowdown, first in product(SCATTERS[:-1], (0.0, SLOWDOWNS[0]), (4, 8)):
        numbers, decided = [], 0
        for seed in range(draws):
            draw = _draw(scatter, _MOST, slowdown, seed)
            number = _time(_first(draw, first).compared(())).needed
            if number is not None and number <= _MOST:
                numbers.append(number)
                decided += _time(_first(draw, number).compared(())).verdict is not Verdict.UNDECIDED
        yield {"scatter": scatter, "slowdown": slowdown, "first": first, "draws": len(numbers),
               "needed": median(numbers or [0]), "decided": decided}  # fmt: skip


def histories(draws):
    """By size and correlation of neighbouring versions, how many histories of noise alone have a
    change of any size, and how many in which a setting is 10% slower from the middle on have it."""
    sizes = ((1, 8), (1, 15), (8, 15))
    for (settings, versions), correlation in product(sizes, (0.0, 0.5, 0.7)):
        rng = np.random.default_rng(settings * versions)
        noise = autoregressive(rng.standard_normal((draws, settings, versions)), correlation)
        alarms = sum(any(change_points(one.tolist(), 1e-9)) for one in noise)
        outcome = {"settings": settings, "versions": versions, "correlation": correlation,
                   "draws": draws, "alarms": alarms}  # fmt: skip
        for std in (0.01, 0.02):  # of the logarithms of ratios
            stepped = std * noise
            stepped[:, 0, versions // 2 :] += math.log(1.1)
            changed = (change_points(one.tolist(), math.log(1.05))[0] for one in stepped)
            outcome[f"found_{std:.0%}"] = sum(map(bool, changed))
        yield outcome


def of_repeats(rows):
    """By setting, how many intervals cover the mean of the setting's other repeats. Intervals
    within a process are those of rows. Those of one repeat alone, and of three successive ones, are
    made as a report makes them, with all repeats of the other settings."""
    [group] = groups(rows)
    for setting in group.settings:
        own = sorted(setting.ok, key=lambda row: row.repeat)
        others = [row for row in rows if row not in own]
        outcome = {"setting": setting.label}
        for name, size in (("within", 1), ("one", 1), ("three", 3)):
            hits = []
            for first in range(0, len(own) - size + 1, size):
                chosen = own[first : first + size]
                truth = fmean(row.ms_per_1k_tokens or 0.0 for row in own if row not in chosen)
                if name == "within":
                    ends = chosen[0].ms_per_1k_tokens_ci_low, chosen[0].ms_per_1k_tokens_ci_high
                    hits.append(bool(Interval(truth, *ends).holds(truth)))
                    continue
                [again] = groups([*others, *chosen])
                [alone] = [one for one in again.settings if one.label == setting.label]
                interval = alone.estimate("ms_per_1k_tokens")
                hits.append(interval is not None and bool(interval.holds(truth)))
            outcome |= {name: sum(hits), f"{name}_of": len(hits)}
        yield outcome


def within_a_process(draws):
    """By number of steps and over how many noise is remembered, how many intervals cover the
    process's mean."""
    for steps, memory in product((132, 500), (0, 8, 30, 100)):
        rng = np.random.default_rng(memory)
        kept = math.exp(-1 / memory) if memory else 0.0
        noise = autoregressive(rng.normal(0, 0.03, (draws, steps)), kept)
        tokens = [1000] * steps
        every = [training_times((100 + 100 * one).tolist(), tokens, tokens) for one in noise]
        hits = sum(bool(one.ms_per_1k_tokens.holds(100.0)) for one in every)
        yield {"steps": steps, "memory": memory, "draws": draws, "covered": hits}
