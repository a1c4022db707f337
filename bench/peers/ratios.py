"""Times and ratios over alternating processes, with bootstrap intervals over rounds and passes.

Plain numbers in and out. A round is one process of each side; its passes over the panel vary less
than rounds do, so both are drawn again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.stats import Interval

_DRAWS: Final = 2000
_Z: Final = 1.959963984540054

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

    Each batch is drawn among its own passes, and the draws are spread by √(P / (P − 1)), as
    `bench.stats.panel_times` does.
    """
    data = np.asarray(replay.passes, dtype=float)
    count, batches = data.shape
    if count == 1:
        return np.zeros(_DRAWS)
    drawn = rng.integers(count, size=(_DRAWS, count, batches))
    totals = data[drawn, np.arange(batches)].sum(axis=2).mean(axis=1)
    wider = math.sqrt(count / (count - 1))
    logs: Logs = wider * np.log(totals / data.sum(axis=1).mean())
    return logs


def _interval(points: Logs, within: Sequence[Logs], rng: np.random.Generator) -> Interval:
    """The exponential of the mean of `points`, [R], with its interval.

    Rounds are drawn with what their passes vary by. Few rounds vary too little among themselves:
    their part is spread by √(R / (R − 1)) and by Student's t over z (the expanded percentile
    interval of Hesterberg 2015), which makes the interval of two rounds as wide as it should be.
    One round has the interval of its passes alone.
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
        from scipy.special import stdtrit

        wider = float(stdtrit(rounds - 1, 0.975)) / _Z * math.sqrt(rounds / (rounds - 1))
        between = wider * between
    low, high = np.quantile(value + between + noise, (0.025, 0.975))
    return Interval(math.exp(value), math.exp(float(low)), math.exp(float(high)))
