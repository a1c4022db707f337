"""The time of a step and of 1,000 tokens without padding, from replayed batches or from training.

Plain numbers in and out, intervals at 95%. They are intervals within one process: how much
processes that do the same work differ is no part of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.stats.intervals import NORMAL_975, Floats, Interval, Ints, quantile

STEPS_ENOUGH: Final = 96
"""Fewest steps of a training whose own steps are timed; a shorter one needs timing batches."""
WINDOW: Final = 8  # steps in a window; windows are compared to find the end of the warm-up
WARMUP_WINDOWS: Final = 6
"""Most windows of a warm-up; if they never agreed, later times count, but as unstable."""
BLOCKS: Final = 4
"""Blocks of the jackknife: few and long, since neighbouring steps correlate. docs/measuring.md says
how often the intervals cover; with three blocks they cover more, and are a third wider."""
AGREEMENT: Final = 0.05
"""Largest relative difference between the means of two windows, or passes, that agree."""


@dataclass(frozen=True)
class StepTimes:
    """The median time of a step, and the mean time of 1,000 tokens without padding, in ms."""

    step_ms: Interval
    ms_per_1k_tokens: Interval


def replay_times(
    passes: Sequence[Sequence[float]], tokens: Sequence[int], draws: int = 2000
) -> StepTimes:
    """Times of timing batches, with bootstrap intervals, from the ms of each batch in each pass [P,
    B], ValueError unless there is one, and the tokens without padding of each batch [B].

    The batches are fixed and only their times vary, so differences between batches are no part of
    the interval. A disturbance often affects a whole pass, so whole passes are resampled. With P
    passes, resampling underestimates the variation: the distance of each end from the estimate is
    multiplied by √(P / (P − 1)) (Rao and Wu 1988) and by the ratio of Student's t to the normal
    quantile. The interval always contains the estimate. One pass has no interval.
    """
    data = np.asarray(passes, dtype=float)
    if data.ndim != 2 or not data.size or data.shape[1] != len(tokens):
        raise ValueError("times of timing batches have a row for each pass, [P, B]")
    per_1k = 1000 / sum(tokens)

    def both(times: Floats) -> tuple[Floats, Floats]:
        flat = times.reshape(*times.shape[:-2], -1)
        return np.median(flat, axis=-1), times.sum(axis=-1).mean(axis=-1) * per_1k

    median, rate = (float(value) for value in both(data))
    if len(data) == 1:
        return StepTimes(Interval(median), Interval(rate))
    freedom = len(data) - 1
    drawn = np.random.default_rng(0).integers(len(data), size=(draws, len(data)))
    wider = math.sqrt(len(data) / freedom) * float(quantile(0.05, freedom)) / NORMAL_975

    def interval(value: float, again: Floats) -> Interval:
        low, high = (float(end) for end in np.quantile(again, (0.025, 0.975)))
        low, high = value + wider * min(low - value, 0.0), value + wider * max(high - value, 0.0)
        return Interval(value, max(low, 0.0), high)

    medians, rates = both(data[drawn])
    return StepTimes(interval(median, medians), interval(rate, rates))


@dataclass(frozen=True)
class TrainingTimes(StepTimes):
    """Times from the steps of a training, without the first `warm` ones. `settled` is False where
    the warm-up had no visible end."""

    warm: int
    settled: bool


def training_times(
    times: Sequence[float], tokens: Sequence[int], padded: Sequence[int]
) -> TrainingTimes:
    """Times of a training's own steps, from the ms of each in order [N], ValueError for fewer than
    `STEPS_ENOUGH`, and the tokens of its batch without and with padding [N].

    docs/measuring.md says how the warm-up ends, and how steps on batches of several sizes give the
    time of all batches, on which the computation depends by their tokens with padding. A
    disturbance often affects neighbouring steps, so intervals are a jackknife over a few blocks of
    later steps, with Student's t.
    """
    ms, sizes = np.asarray(times, dtype=float), np.asarray(padded, dtype=float)
    if ms.ndim != 1 or not ms.shape == sizes.shape == np.shape(tokens) or ms.size < STEPS_ENOUGH:
        raise ValueError(f"the times of a training are of at least {STEPS_ENOUGH} steps, [N]")
    relative = ms / _expected(ms, sizes, np.arange(ms.size // 2, ms.size))
    windows = relative[: ms.size // WINDOW * WINDOW].reshape(-1, WINDOW).mean(axis=1)
    changes = np.abs(np.diff(windows[:WARMUP_WINDOWS])) / windows[: WARMUP_WINDOWS - 1]
    stable = np.flatnonzero(changes <= AGREEMENT)
    warm = WINDOW * (int(stable[0]) + 1 if stable.size else WARMUP_WINDOWS)

    steps = np.arange(warm, ms.size)
    blocks = np.array_split(steps, BLOCKS)

    def estimates(counted: Ints) -> Floats:
        """Median ms, and ms for 1,000 tokens without padding, estimated from some of the steps."""
        expected = _expected(ms, sizes, counted)
        expected *= ms[counted].sum() / expected[counted].sum()
        return np.array([np.median(expected), 1000 * expected.sum() / np.sum(tokens)])

    without = np.array([estimates(np.setdiff1d(steps, block)) for block in blocks])
    median, rate = map(_jackknifed, estimates(steps), without.T)
    return TrainingTimes(median, rate, warm=warm, settled=bool(stable.size))


def _expected(ms: Floats, sizes: Floats, counted: Ints) -> Floats:
    """The expected time of each step by its size, fitted to the steps that count, [N]."""
    scaled = sizes / sizes.max()
    degree = min(2, len(np.unique(sizes[counted])) - 1)
    fitted = np.polyval(np.polyfit(scaled[counted], ms[counted], degree), scaled)
    return np.maximum(fitted, 0.1 * float(np.median(ms[counted])))


def _jackknifed(value: float, without: Floats) -> Interval:
    """A value with its interval from the values without each block, [K] (Tukey 1958)."""
    freedom = without.size - 1
    std = math.sqrt(freedom / without.size * float(((without - without.mean()) ** 2).sum()))
    half = std * float(quantile(0.05, freedom))
    return Interval(float(value), max(0.0, float(value) - half), float(value) + half)
