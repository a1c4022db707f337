"""Comparisons of two sets of rows that are the same (A/A): how often a regression is reported."""

import tomllib
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from math import exp
from pathlib import Path

import numpy as np

from bench.analysis.comparison import Limits, compare
from bench.compare.alternating import look_rounds, undecided_cells
from bench.results.outcomes import no_values
from tests.bench.synthetic_rows import cell, full_grid, planned_row

RUN_S = 10.0  # seconds between the starts of two simulated runs


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
            drift = drift * exp(-1 / 20) + float(rng.normal(0, 0.04 * (1 - exp(-1 / 10)) ** 0.5))
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
            peak = 1000 * exp(stds[number] * float(rng.normal(0, 0.003)))
            started = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(seconds=RUN_S * run)
            time = 100 * exp(log)
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
    """The rows that bench.compare --run would have measured, each setting until it is decided, and
    the number of its looks."""
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
