"""Times and ratios over alternating processes, with bootstrap intervals over rounds and passes.

Pure. A round is one process of each side; its passes over the timing batches vary less than rounds
do, so both are resampled. Resamples of few values vary too little, so they are widened by
√(N / (N − 1)) and by Student's t over the normal quantile (the expanded percentile interval of
Hesterberg 2015).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.stats.intervals import NORMAL_975, Interval

_RESAMPLES: Final = 2000

Logs = NDArray[np.float64]


@dataclass(frozen=True)
class Replay:
    """Times of one process: ms of each batch in each counted pass, [P, B], and the batches' real
    tokens, [B]."""

    passes: Sequence[Sequence[float]]
    tokens: Sequence[int]

    @property
    def ms_per_1k_tokens(self) -> float:
        """The mean time of the timing batches over their real tokens."""
        return float(np.asarray(self.passes).sum(axis=1).mean()) / sum(self.tokens) * 1000


def as_replay(seconds: float) -> Replay:
    """A replay without passes, whose time per 1,000 tokens is a given duration."""
    return Replay([[seconds]], [1000])


def time_of(replays: Sequence[Replay], seed: int = 0) -> Interval:
    """Milliseconds per 1,000 real tokens: the geometric mean over rounds.

    Raises:
        ValueError: without rounds.
    """
    rng = np.random.default_rng(seed)
    return _interval(_points(replays), [_resampled(replay, rng) for replay in replays], rng)


def ratio_of(ours: Sequence[Replay], baseline: Sequence[Replay], seed: int = 0) -> Interval:
    """Our time over the baseline's: the geometric mean of the rounds' ratios.

    Rounds are paired, so a machine that is slower for a while slows both sides of a round.

    Raises:
        ValueError: without rounds, or if the numbers of rounds differ.
    """
    if len(ours) != len(baseline):
        raise ValueError("a ratio needs the same number of rounds on both sides")
    rng = np.random.default_rng(seed)
    within = [
        _resampled(one, rng) - _resampled(other, rng)
        for one, other in zip(ours, baseline, strict=True)
    ]
    return _interval(_points(ours) - _points(baseline), within, rng)


def _points(replays: Sequence[Replay]) -> Logs:
    return np.array([math.log(replay.ms_per_1k_tokens) for replay in replays])


def _resampled(replay: Replay, rng: np.random.Generator) -> Logs:
    """Changes in the log of a process's time when its passes are resampled, [D].

    Whole passes are resampled, as `bench.stats.steptimes.panel_times` does.
    """
    totals = np.asarray(replay.passes, dtype=float).sum(axis=1)  # [P]
    count = len(totals)
    if count == 1:
        return np.zeros(_RESAMPLES)
    means = totals[rng.integers(count, size=(_RESAMPLES, count))].mean(axis=1)
    logs: Logs = _widening(count) * np.log(means / totals.mean())
    return logs


def _widening(count: int) -> float:
    """The factor by which resamples of a few values are widened."""
    from scipy.special import stdtrit

    return math.sqrt(count / (count - 1)) * float(stdtrit(count - 1, 0.975)) / NORMAL_975


def _interval(points: Logs, within: Sequence[Logs], rng: np.random.Generator) -> Interval:
    """The exponential of the mean of `points`, [R], with its interval.

    Rounds are resampled together with the variation of their passes. With one round the interval is
    that of its passes.
    """
    rounds = len(points)
    if not rounds:
        raise ValueError("no rounds to average")
    value, spread = float(points.mean()), np.stack(within, axis=1)  # [D, R]
    if rounds == 1 and not spread.any():
        return Interval(math.exp(value))
    indices = rng.integers(rounds, size=(_RESAMPLES, rounds))
    noise = np.take_along_axis(spread, indices, axis=1).mean(axis=1)
    between = (points[indices] - value).mean(axis=1)
    if rounds > 1:
        between = _widening(rounds) * between
    low, high = np.quantile(value + between + noise, (0.025, 0.975))
    return Interval(math.exp(value), math.exp(float(low)), math.exp(float(high)))
