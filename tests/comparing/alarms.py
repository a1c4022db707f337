"""Comparisons of two sets of rows that are the same (A/A): how often a regression is reported."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import exp
from typing import Any, Final

import numpy as np

from bench.analysis.comparison import Limits, compare
from bench.plan.rows import Row
from bench.results.outcomes import no_values
from tests.bench.synthetic_rows import cell, full_grid, planned_row

Rng = np.random.Generator
Rows = list[Row]
RUN_S: Final = 10.0
"""Seconds between the starts of two simulated runs."""
_BEGIN: Final = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Repeats:
    """Measured rows of the same code, of whose successive repeats one is of each side at random.

    So both sides are measured in alternation, as by bench.compare --run.
    """

    rows: Sequence[Row]
    name: str = "real repeats of this machine, split into halves"
    named: tuple[str, ...] = ()

    def draw(self, rng: Rng) -> tuple[Rows, Rows]:
        """The halves, with repeats numbered anew from 1, so that they pair up."""
        repeats = sorted({row.repeat for row in self.rows})
        pairs = [rng.permutation(pair) for pair in zip(repeats[::2], repeats[1::2], strict=False)]
        base, new = ({int(pair[i]): rank for rank, pair in enumerate(pairs, 1)} for i in (0, 1))
        return _numbered(self.rows, base), _numbered(self.rows, new)


def _numbered(rows: Sequence[Row], ranks: dict[int, int]) -> Rows:
    return [row | {"repeat": ranks[row.repeat]} for row in rows if row.repeat in ranks]


@dataclass(frozen=True)
class Simulated:
    """Runs on a machine that drifts, of two sides that are the same.

    Logarithms of times add up the drift (a process of std 4% with a memory of 20 runs), a normal
    part of each run (2%) and, in one of 20 runs, a disturbance of 5 to 15%. Peak memory varies by
    0.3%, and scores between seeds by 1 point.

    Attributes:
        alternated: whether both sides run in turn; else one session after another, each with an
            offset of 6%.
        unequal: the std of the logarithms of the settings' stds of times, of peaks and of scores.
        examples: the number of dev examples, of which a score is a share; None: it is not rounded.
        has_one_base: whether all settings are of NEW, and compared with one and the same of BASE.
    """

    name: str
    settings: int
    seeds: int
    repeats: int
    alternated: bool = True
    unequal: float = 0.0
    examples: int | None = None
    has_one_base: bool = False

    @property
    def named(self) -> tuple[str, ...]:
        """The columns in which matching settings differ."""
        return ("mode", "rank", "layers", "amp") if self.has_one_base else ()

    def draw(self, rng: Rng) -> tuple[Rows, Rows]:
        """Rows of both sides."""
        sides: tuple[Rows, Rows] = ([], [])
        drift, offsets = float(rng.normal(0, 0.04)), rng.normal(0, 0.06, 2)
        stds = np.exp(rng.normal(0, self.unequal, self.settings + 1)).tolist()
        for run, (side, number, seed, repeat) in enumerate(self._order(rng)):
            drift = drift * exp(-1 / 20) + float(rng.normal(0, 0.04 * (1 - exp(-1 / 10)) ** 0.5))
            log = drift + (0.0 if self.alternated else offsets[side])
            log += stds[number] * float(rng.normal(0, 0.02))
            log += float(rng.uniform(0.05, 0.15)) * (rng.random() < 0.05)
            score = 0.6 + stds[number] * float(rng.normal(0, 0.01))
            if self.examples is not None:
                score = round(score * self.examples) / self.examples
            peak = 1000 * exp(stds[number] * float(rng.normal(0, 0.003)))
            sides[side].append(_row(number, seed, repeat, 100 * exp(log), peak, score, run))
        return sides

    def _order(self, rng: Rng) -> Iterator[tuple[int, int, int, int]]:
        """Side, setting, seed and repeat of each run, in the order in which they start."""
        tasks: list[tuple[Sequence[int], Sequence[int]]]
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


def _row(
    number: int, seed: int, repeat: int, time: float, peak: float, score: float, run: int
) -> Row:
    started = _BEGIN + timedelta(seconds=RUN_S * run)
    values: dict[str, Any] = {
        "status": "ok", "attempt": 1, "repeat": repeat, "ms_per_1k_tokens": time,
        "ms_per_1k_tokens_ci_low": 0.98 * time, "ms_per_1k_tokens_ci_high": 1.02 * time,
        "peak_rss_mib": peak, "activations_mib": 400.0,
        "step_gflop": 50.0, "step_operators": 800, "step_moved_mib": 1500.0,
        "dev_metric": "accuracy", "dev_score": score, "dev_ci_low": score - 0.03,
        "dev_ci_high": score + 0.03, "dev_accuracy": score, "majority_score": 0.36,
        "started_at": started.isoformat().replace("+00:00", "Z"),
    }  # fmt: skip
    return planned_row(cell(*full_grid()[number], seed=seed)) | values


SCENARIOS: Final = (
    Simulated("simulated, 1 setting, 4 repeats, in alternation", 1, 1, 4),
    Simulated("simulated, 4 settings, 6 repeats, in alternation", 4, 1, 6),
    Simulated("simulated, 12 settings, 3 seeds, 2 repeats, in alternation", 12, 3, 2),
    Simulated("simulated, 40 settings, 1 run, in alternation", 40, 1, 1),
    Simulated(
        "simulated, 12 settings, 3 seeds, one side after the other", 12, 3, 1, alternated=False
    ),
    Simulated(
        "simulated, 40 settings, 1 run, one side after the other", 40, 1, 1, alternated=False
    ),
    Simulated(
        "simulated, 12 settings with unequal noise, 3 seeds, 2 repeats, in alternation", 12, 3, 2,
        unequal=0.5,
    ),
    Simulated(
        "simulated, 12 settings against one of BASE, 3 seeds, in alternation", 12, 3, 1,
        has_one_base=True,
    ),
    Simulated(
        "simulated, 12 settings, 2 seeds of 64 dev examples, in alternation", 12, 2, 1, examples=64
    ),
)  # fmt: skip


def measure(
    world: Repeats | Simulated, number: int, on_drawn: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Compare a number of draws, the same ones each time.

    Returns:
        The name; the number of draws, of those with a regression that gates (`alarms`), of those
        with a significant change of any size, either way (`changes`), and of such changes by
        column.
    """
    alarms, changes, by_column = 0, 0, Counter[str]()
    for seed in range(number):
        base, new = world.draw(np.random.default_rng(seed))
        compared = compare(base, new, Limits(), named=world.named, values_of=(no_values, no_values))
        alarms += bool(compared.regressions or compared.failing)
        significant = [one.measure.column for _, one in compared.results if one.significant]
        changes += bool(significant)
        by_column.update(significant)
        on_drawn()
    return {
        "name": world.name,
        "draws": number,
        "alarms": alarms,
        "changes": changes,
        "by_column": by_column,
    }
