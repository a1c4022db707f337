"""The time of a step and of 1,000 real tokens: from passes over a panel, or from training itself.

Plain numbers in and out, intervals at 95%. scipy is imported where it is needed, so that who needs
none of it does not wait.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.stats.intervals import NORMAL_975, Interval

STEPS_ENOUGH: Final = 96
"""A training of so many steps shows its own step times; a shorter one needs a panel."""
WINDOW: Final = 8
"""Steps of training that are looked at together to find when it is warm."""
WARMUP_WINDOWS: Final = 6
"""After so many windows that never agreed the times count all the same, and are unstable."""
BLOCK: Final = 16
"""The fewest neighbouring steps that vary as one."""
MOST_BLOCKS: Final = 20
AGREEMENT: Final = 0.05
"""How far the means of two windows, or passes, may be apart."""


@dataclass(frozen=True)
class StepTimes:
    """A step's time: the median in ms, and what 1,000 real tokens take on average in ms."""

    step_ms: Interval
    ms_per_1k_tokens: Interval


def panel_times(
    passes: Sequence[Sequence[float]], tokens: Sequence[int], draws: int = 2000, seed: int = 0
) -> StepTimes:
    """Times of a panel of batches, with bootstrap intervals.

    The batches are fixed and only their times vary, so how they differ from one another is no part
    of the interval. What disturbs a step often disturbs its whole pass: passes are drawn again
    whole. Draws from few passes vary too little: how far their ends are from the estimate is spread
    by √(P / (P − 1)) (Rao and Wu 1988) and by Student's t over the normal quantile. So the estimate
    is always inside. One pass has no interval.

    Args:
        passes: ms of each batch in each pass, [P, B].
        tokens: real tokens of each batch, [B].

    Raises:
        ValueError: without passes, or if they are not of as many batches as there are tokens.
    """
    data = np.asarray(passes, dtype=float)
    if data.ndim != 2 or not data.size or data.shape[1] != len(tokens):
        raise ValueError("the times of a panel are a row of its batches for each pass")
    per_1k = 1000 / sum(tokens)

    def both(times: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        flat = times.reshape(*times.shape[:-2], -1)
        return np.median(flat, axis=-1), times.sum(axis=-1).mean(axis=-1) * per_1k

    median, rate = (float(value) for value in both(data))
    if len(data) == 1:
        return StepTimes(Interval(median), Interval(rate))
    from scipy.special import stdtrit

    freedom = len(data) - 1
    drawn = np.random.default_rng(seed).integers(len(data), size=(draws, len(data)))
    wider = math.sqrt(len(data) / freedom) * float(stdtrit(freedom, 0.975)) / NORMAL_975

    def interval(value: float, again: NDArray[np.float64]) -> Interval:
        low, high = (float(end) for end in np.quantile(again, (0.025, 0.975)))
        low, high = value + wider * min(low - value, 0.0), value + wider * max(high - value, 0.0)
        return Interval(value, max(low, 0.0), high)

    medians, rates = both(data[drawn])
    return StepTimes(interval(median, medians), interval(rate, rates))


@dataclass(frozen=True)
class TrainingTimes(StepTimes):
    """Times from the steps of a training, those before `warm` left out as its warm-up.

    `settled` is False where the beginning never came to rest.
    """

    warm: int
    settled: bool


def training_times(
    times: Sequence[float], tokens: Sequence[int], padded: Sequence[int]
) -> TrainingTimes:
    """Times of training's own steps, in order.

    Its batches differ, so each step is compared with what a batch of its size takes: a parabola
    through the steps, of their tokens with padding, which is what is computed on. Warm-up ends with
    the first window of 8 steps that is within 5% of the one before. What the steps that count take,
    over what is expected of them, is then applied to what is expected of all batches, those of the
    warm-up too: a seed fixes them, for every setting alike. What disturbs a step often disturbs its
    neighbours: the steps that count are cut into at most 20 blocks of 16 neighbours or more, and
    the intervals are a jackknife over the blocks, with Student's t.

    Args:
        times: ms of each step, [N].
        tokens: real tokens of each step's batch, [N].
        padded: the same with padding, [N].

    Raises:
        ValueError: unless there are as many steps as tokens, and at least `STEPS_ENOUGH`.
    """
    ms, sizes = np.asarray(times, dtype=float), np.asarray(padded, dtype=float)
    if ms.ndim != 1 or not ms.shape == sizes.shape == np.shape(tokens) or ms.size < STEPS_ENOUGH:
        raise ValueError(f"the times of a training are of {STEPS_ENOUGH} steps and more, [N]")
    relative = ms / _expected(ms, sizes, np.arange(ms.size // 2, ms.size))
    windows = relative[: ms.size // WINDOW * WINDOW].reshape(-1, WINDOW).mean(axis=1)
    apart = np.abs(np.diff(windows[:WARMUP_WINDOWS])) / windows[: WARMUP_WINDOWS - 1]
    calm = np.flatnonzero(apart <= AGREEMENT)
    warm = WINDOW * (int(calm[0]) + 1 if calm.size else WARMUP_WINDOWS)

    steps = np.arange(warm, ms.size)
    blocks = np.array_split(steps, min(MOST_BLOCKS, steps.size // BLOCK))

    def estimates(counted: NDArray[np.int64]) -> NDArray[np.float64]:
        """Median ms, and ms for 1,000 real tokens, as some steps have them."""
        expected = _expected(ms, sizes, counted)
        expected *= ms[counted].sum() / expected[counted].sum()
        return np.array([np.median(expected), 1000 * expected.sum() / np.sum(tokens)])

    without = np.array([estimates(np.setdiff1d(steps, block)) for block in blocks])
    median, rate = map(_jackknifed, estimates(steps), without.T)
    return TrainingTimes(median, rate, warm=warm, settled=bool(calm.size))


def _expected(
    ms: NDArray[np.float64], sizes: NDArray[np.float64], counted: NDArray[np.int64]
) -> NDArray[np.float64]:
    """What each step takes by its size, as those that count have it, [N]."""
    scaled = sizes / sizes.max()
    degree = min(2, len(np.unique(sizes[counted])) - 1)
    found = np.polyval(np.polyfit(scaled[counted], ms[counted], degree), scaled)
    return np.maximum(found, 0.1 * float(np.median(ms[counted])))


def _jackknifed(value: float, without: NDArray[np.float64]) -> Interval:
    """A value and what it is without each block, [K], with Student's t (Tukey 1958)."""
    from scipy.special import stdtrit

    freedom = without.size - 1
    std = math.sqrt(freedom / without.size * float(((without - without.mean()) ** 2).sum()))
    half = std * float(stdtrit(freedom, 0.975))
    return Interval(float(value), max(0.0, float(value) - half), float(value) + half)
