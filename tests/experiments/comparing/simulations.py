"""How often comparisons of equal sides (A/A) report a regression, and what comparisons, histories
and intervals of times find and cover, by simulation and in real repeats."""

import math
import tomllib
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean, median

import numpy as np

from bench.analysis.comparison import Limits, Verdict, compare
from bench.analysis.groups import groups
from bench.compare.alternating import look_rounds, undecided_cells
from bench.results.outcomes import no_values
from bench.stats.changepoints import autoregressive, change_points
from bench.stats.intervals import Interval
from bench.stats.steptimes import training_times
from tests.bench.synthetic_rows import cell, full_grid, planned_row

SCATTERS = (0.02, 0.04, 0.07, 0.10)
"""Stds of the logarithms of times between processes that do the same work."""
SLOWDOWNS = (0.10, 0.20)
ROUNDS = (8, 24, 48)
_MOST = 200  # most repeats that are simulated; a setting for which more are named is not counted


@dataclass(frozen=True)
class Draw:
    base: list
    new: list
    values_of: tuple = (no_values, no_values)

    def compared(self, named, looks=1):
        more = {"named": named, "values_of": self.values_of, "looks": looks}
        return compare(self.base, self.new, Limits(), **more)


@dataclass(frozen=True)
class Repeats:
    """Measured rows of the same code, of whose successive repeats one is of each side at random. So
    both sides are measured in alternation, as by bench.compare --run."""

    rows: list
    name: str = "real repeats of this machine, split into halves"
    named: tuple = ()

    def draw(self, rng):
        """Repeats are numbered anew from 1, so that they pair up."""
        repeats = sorted({row.repeat for row in self.rows})
        pairs = [rng.permutation(pair) for pair in zip(repeats[::2], repeats[1::2], strict=False)]
        ranks = [{int(pair[i]): rank for rank, pair in enumerate(pairs, 1)} for i in (0, 1)]
        return Draw(*(
            [row | {"repeat": own[row.repeat]} for row in self.rows if row.repeat in own]
            for own in ranks
        ))  # fmt: skip


@dataclass(frozen=True)
class Simulated:
    """Runs on a machine that drifts, of two sides that are the same. Logarithms of times add up the
    drift (a process of std 4% with a memory of 20 runs), a normal part of each run (2%) and, in one
    of 20 runs, a disturbance of 5 to 15%. Peak memory varies by 0.3%, and scores between seeds by 1
    point. With kept values, seeds and settings have the difficulty of each example in common, and
    whether a training gets it right is drawn by that."""

    name: str
    settings: int
    seeds: int
    repeats: int
    alternated: bool = True  # else one session after another, each with an offset of 6%
    unequal: float = 0.0  # std of the logarithms of settings' stds of times, peaks and scores
    examples: int | None = None  # dev examples, of which a score is a share; None: not rounded
    has_one_base: bool = False  # whether all settings are of NEW, against one of BASE
    has_looks: bool = False  # whether rounds end early, as at the looks of bench.compare --run
    has_values: bool = False  # whether it is known of each example whether it is right
    slowdown: float = 0.0  # the logarithm of NEW's true time over BASE's
    scatter: float = 0.02  # the std of the normal part of each run
    disturbed: float = 0.05  # the share of disturbed runs

    @property
    def named(self):
        return ("mode", "rank", "layers", "amp") if self.has_one_base else ()

    def draw(self, rng):
        sides, values = ([], []), ({}, {})
        drift, offsets = float(rng.normal(0, 0.04)), rng.normal(0, 0.06, 2)
        stds = np.exp(rng.normal(0, self.unequal, self.settings + 1)).tolist()
        likely = 1 / (1 + np.exp(-rng.normal(0.6, 1.5, self.examples or 0)))
        for run, (side, number, seed, repeat) in enumerate(self._order(rng)):
            noise = 0.04 * (1 - math.exp(-1 / 10)) ** 0.5
            drift = drift * math.exp(-1 / 20) + float(rng.normal(0, noise))
            log = drift + (0.0 if self.alternated else offsets[side]) + side * self.slowdown
            log += stds[number] * float(rng.normal(0, self.scatter))
            log += float(rng.uniform(0.05, 0.15)) * (rng.random() < self.disturbed)
            planned = _planned(number, seed)
            score = 0.6 + stds[number] * float(rng.normal(0, 0.01))
            if self.has_values:
                right = rng.random(len(likely)) < likely + score - 0.6
                key = (planned.cell_id, seed)  # repeats of a seed are the same training
                score = float(values[side].setdefault(key, right.astype(float)).mean())
            elif self.examples is not None:
                score = round(score * self.examples) / self.examples
            peak = 1000 * math.exp(stds[number] * float(rng.normal(0, 0.003)))
            started = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(seconds=10 * run)
            time = 100 * math.exp(log)
            sides[side].append(planned | {
                "status": "ok", "attempt": 1, "repeat": repeat, "ms_per_1k_tokens": time,
                "ms_per_1k_tokens_ci_low": 0.98 * time, "ms_per_1k_tokens_ci_high": 1.02 * time,
                "peak_rss_mib": peak, "activations_mib": 400.0,
                "step_gflop": 50.0, "step_operators": 800, "step_moved_mib": 1500.0,
                "dev_metric": "accuracy", "dev_score": score, "dev_ci_low": score - 0.03,
                "dev_ci_high": score + 0.03, "dev_accuracy": score, "majority_score": 0.36,
                "started_at": started.isoformat().replace("+00:00", "Z"),
            })  # fmt: skip
        if not self.has_values:
            return Draw(*sides)
        each = (lambda run, own=own: own.get((run[0].cell_id, run[0].seed)) for own in values)
        return Draw(*sides, values_of=tuple(each))

    def _order(self, rng):
        """Side, setting, seed and repeat of each run, in the order in which they start."""
        tasks = [((number,), (number,)) for number in range(self.settings)]
        if self.has_one_base:
            tasks = [((0,), range(1, self.settings + 1))]
        cells = [(task, seed) for task in tasks for seed in range(self.seeds)]
        for sides in ((0, 1),) if self.alternated else ((0,), (1,)):
            for repeat in range(1, self.repeats + 1):
                for index in rng.permutation(len(cells)):
                    task, seed = cells[index]
                    for side in sides if repeat % 2 else sides[::-1]:
                        for number in task[side]:
                            yield side, number, seed, repeat


@cache
def _planned(number, seed):
    return planned_row(cell(*full_grid()[number], seed=seed))


_TABLES = tomllib.loads(Path(__file__).with_name("scenarios.toml").read_text("utf-8"))
SCENARIOS = tuple(Simulated(**table) for table in _TABLES["scenarios"])


def in_rounds(draw, most, named=()):
    """The rows that bench.compare --run measures until all is decided; its number of looks."""
    looks = look_rounds(most)
    ended = {row.cell_id: most for row in (*draw.base, *draw.new)}
    undecided = set(ended)
    for number in looks[:-1]:
        ended |= dict.fromkeys(undecided, number)
        comparison = until(draw, ended).compared(named, len(looks))
        undecided &= undecided_cells(comparison, is_look=True)
        ended |= dict.fromkeys(undecided, most)
        if not undecided:
            break
    return until(draw, ended), len(looks)


def until(draw, ended):
    base, new = (
        [row for row in side if row.repeat <= ended[row.cell_id]] for side in (draw.base, draw.new)
    )
    return replace(draw, base=base, new=new)


def measure(world, number):
    """Compare a number of draws, the same ones each time: how many have a regression that gates
    (`alarms`), or a significant change of any size, either way (`changes`), and these by column."""
    alarms, changes, by_column = 0, 0, Counter()
    for seed in range(number):
        draw, looks = world.draw(np.random.default_rng(seed)), 1
        if isinstance(world, Simulated) and world.has_looks:
            draw, looks = in_rounds(draw, world.repeats, world.named)
        compared = draw.compared(world.named, looks)
        alarms += bool(compared.regressions or compared.failing)
        significant = [one.measure.column for _, one in compared.results if one.significant]
        changes += bool(significant)
        by_column.update(significant)
    return {"name": world.name, "draws": number, "alarms": alarms, "changes": changes,
            "by_column": by_column}  # fmt: skip


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
    """By scatter and slowdown, how many undecided draws the number named after 4 or 8 decides."""
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
    """By number of steps and memory of their noise, how many intervals cover the mean."""
    for steps, memory in product((132, 500), (0, 8, 30, 100)):
        rng = np.random.default_rng(memory)
        kept = math.exp(-1 / memory) if memory else 0.0
        noise = autoregressive(rng.normal(0, 0.03, (draws, steps)), kept)
        tokens = [1000] * steps
        every = [training_times((100 + 100 * one).tolist(), tokens, tokens) for one in noise]
        hits = sum(bool(one.ms_per_1k_tokens.holds(100.0)) for one in every)
        yield {"steps": steps, "memory": memory, "draws": draws, "covered": hits}
