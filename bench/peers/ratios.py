"""Times and ratios over alternating processes, with bootstrap intervals over rounds and passes.

Plain numbers in and out. A round is one process of each side; its passes over the panel vary less
than rounds do, so both are drawn again. Few draws vary too little, and are spread by √(N / (N − 1))
and by Student's t over the normal quantile (the expanded percentile interval of Hesterberg 2015).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.stats.intervals import NORMAL_975, Interval

_DRAWS: Final = 2000

Logs = NDArray[np.float64]


@dataclass(frozen=True)
class Replay:
    """What one process measured: ms of each batch in each counted pass, [P, B], and the batches'
    real tokens, [B]."""

    passes: Sequence[Sequence[float]]
    tokens: Sequence[int]

    @property
    def ms_per_1k_tokens(self) -> float:
        """The panel's mean time over its real tokens."""
        return float(np.asarray(self.passes).sum(axis=1).mean()) / sum(self.tokens) * 1000


def whole(seconds: float) -> Replay:
    """One duration, for what has no passes: its time for 1,000 tokens is the duration itself."""
    return Replay([[seconds]], [1000])


def time_of(replays: Sequence[Replay], seed: int = 0) -> Interval:
    """Milliseconds for 1,000 real tokens: the geometric mean over rounds.

    Raises:
        ValueError: without rounds.
    """
    rng = np.random.default_rng(seed)
    return _interval(_points(replays), [_redrawn(replay, rng) for replay in replays], rng)


def ratio_of(ours: Sequence[Replay], peers: Sequence[Replay], seed: int = 0) -> Interval:
    """Our time over the peer's: the geometric mean of the rounds' ratios.

    Rounds are paired, so a machine that is slower for a while slows both sides of a round.

    Raises:
        ValueError: without rounds, or if there are not as many of both.
    """
    if len(ours) != len(peers):
        raise ValueError("a ratio is of as many rounds on both sides")
    rng = np.random.default_rng(seed)
    within = [
        _redrawn(one, rng) - _redrawn(other, rng) for one, other in zip(ours, peers, strict=True)
    ]
    return _interval(_points(ours) - _points(peers), within, rng)


def _points(replays: Sequence[Replay]) -> Logs:
    return np.array([math.log(replay.ms_per_1k_tokens) for replay in replays])


def _redrawn(replay: Replay, rng: np.random.Generator) -> Logs:
    """How far the log of a process's time is from itself when its passes are drawn again, [D].

    Passes are drawn whole, as `bench.stats.steptimes.panel_times` does.
    """
    totals = np.asarray(replay.passes, dtype=float).sum(axis=1)  # [P]
    count = len(totals)
    if count == 1:
        return np.zeros(_DRAWS)
    drawn = totals[rng.integers(count, size=(_DRAWS, count))].mean(axis=1)
    logs: Logs = _wider(count) * np.log(drawn / totals.mean())
    return logs


def _wider(count: int) -> float:
    """What draws from a few values are to be spread by."""
    from scipy.special import stdtrit

    return math.sqrt(count / (count - 1)) * float(stdtrit(count - 1, 0.975)) / NORMAL_975


def _interval(points: Logs, within: Sequence[Logs], rng: np.random.Generator) -> Interval:
    """The exponential of the mean of `points`, [R], with its interval.

    Rounds are drawn with what their passes vary by. One round has the interval of its passes
    alone.
    """
    rounds = len(points)
    if not rounds:
        raise ValueError("the time of no rounds")
    value, spread = float(points.mean()), np.stack(within, axis=1)  # [D, R]
    if rounds == 1 and not spread.any():
        return Interval(math.exp(value))
    drawn = rng.integers(rounds, size=(_DRAWS, rounds))
    noise = np.take_along_axis(spread, drawn, axis=1).mean(axis=1)
    between = (points[drawn] - value).mean(axis=1)
    if rounds > 1:
        between = _wider(rounds) * between
    low, high = np.quantile(value + between + noise, (0.025, 0.975))
    return Interval(math.exp(value), math.exp(float(low)), math.exp(float(high)))
