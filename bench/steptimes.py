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

from bench.stats import NORMAL_975, Interval

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
    whole. Draws from few passes vary too little, and are spread by √(P / (P − 1)) (Rao and Wu 1988)
    and by Student's t over the normal quantile. One pass has no interval.

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
    centre = data.mean(axis=0)
    wider = math.sqrt(len(data) / freedom) * float(stdtrit(freedom, 0.975)) / NORMAL_975
    again = both(centre + wider * (data[drawn] - centre))
    ends = [tuple(map(float, np.quantile(values, (0.025, 0.975)))) for values in again]
    return StepTimes(Interval(median, *ends[0]), Interval(rate, *ends[1]))


@dataclass(frozen=True)
class TrainingTimes(StepTimes):
    """Times from the steps of a training, those before `warm` left out as its warm-up.

    `settled` is False where the beginning never came to rest.
    """

    warm: int
    settled: bool


def training_times(times: Sequence[float], tokens: Sequence[int]) -> TrainingTimes:
    """Times of training's own steps, in order.

    Its batches differ, so each step is first compared with what a batch of its tokens takes: a
    parabola through all steps of the second half. Warm-up ends with the first window of 8 steps
    that is within 5% of the one before. What disturbs a step often disturbs its neighbours: the
    steps that count are cut into at most 20 blocks of 16 neighbours or more, and the intervals are
    Student's t over the blocks. How batches differ is no part of them: a seed fixes the batches.

    Args:
        times: ms of each step, [N].
        tokens: real tokens of each step's batch, [N].

    Raises:
        ValueError: unless there are as many steps as tokens, and at least `STEPS_ENOUGH`.
    """
    ms, sizes = np.asarray(times, dtype=float), np.asarray(tokens, dtype=float)
    if ms.ndim != 1 or ms.shape != sizes.shape or ms.size < STEPS_ENOUGH:
        raise ValueError(f"the times of a training are of {STEPS_ENOUGH} steps and more, [N]")
    relative = ms / _expected(ms, sizes, ms.size // 2)
    windows = relative[: ms.size // WINDOW * WINDOW].reshape(-1, WINDOW).mean(axis=1)
    apart = np.abs(np.diff(windows[:WARMUP_WINDOWS])) / windows[: WARMUP_WINDOWS - 1]
    calm = np.flatnonzero(apart <= AGREEMENT)
    warm = WINDOW * (int(calm[0]) + 1 if calm.size else WARMUP_WINDOWS)

    ms, sizes = ms[warm:], sizes[warm:]
    expected = _expected(ms, sizes, 0)
    count = min(MOST_BLOCKS, ms.size // BLOCK)
    blocks = np.array_split(np.arange(ms.size), count)
    rates = [float(ms[block].sum() / expected[block].sum()) for block in blocks]
    medians = [float(np.median(ms[block] / expected[block])) for block in blocks]
    return TrainingTimes(
        step_ms=_by_blocks(float(np.median(ms)), medians),
        ms_per_1k_tokens=_by_blocks(float(ms.sum() / sizes.sum()) * 1000, rates),
        warm=warm,
        settled=bool(calm.size),
    )


def _expected(
    ms: NDArray[np.float64], tokens: NDArray[np.float64], begin: int
) -> NDArray[np.float64]:
    """What a step of so many tokens takes, by the steps from `begin` on, [N]."""
    scaled = tokens / tokens.max()
    degree = min(2, len(np.unique(tokens[begin:])) - 1)
    found = np.polyval(np.polyfit(scaled[begin:], ms[begin:], degree), scaled)
    return np.maximum(found, 0.1 * float(np.median(ms[begin:])))


def _by_blocks(value: float, relative: Sequence[float]) -> Interval:
    """A value whose blocks were so far from it, with Student's t over them."""
    from scipy.special import stdtrit

    data = np.asarray(relative)
    deviation = float(data.std(ddof=1) / data.mean()) / math.sqrt(data.size)
    half = value * deviation * float(stdtrit(data.size - 1, 0.975))
    return Interval(value, max(0.0, value - half), value + half)
