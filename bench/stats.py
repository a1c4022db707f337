"""Intervals at 95%: of a proportion, a correlation, a median, a mean, a difference and a ratio.

Plain numbers in and out. scipy is imported where it is needed, so that who needs none of it does
not wait.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

_Z: Final = 1.959963984540054
"""The 97.5% quantile of the normal distribution."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval; `low` and `high` are None where there is no interval."""

    value: float
    low: float | None = None
    high: float | None = None

    def ends(self) -> tuple[float, float] | None:
        """Both ends, or None where there is no interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def holds(self, value: float) -> bool | None:
        """Whether the interval holds a value; None where there is no interval."""
        ends = self.ends()
        return None if ends is None else ends[0] <= value <= ends[1]


def wilson(successes: int, total: int) -> tuple[float, float]:
    """Both ends for a proportion, by the score interval of Wilson (1927).

    Raises:
        ValueError: unless 0 ≤ successes ≤ total and total > 0.
    """
    if not 0 <= successes <= total or total == 0:
        raise ValueError(f"{successes} of {total} is no proportion")
    from scipy.stats import binomtest

    found = binomtest(successes, total).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def fisher(correlation: float, total: int) -> tuple[float, float]:
    """Both ends for a Pearson correlation over `total` pairs, by Fisher's z.

    Below 4 pairs nothing is known: −1 and 1.
    """
    if total < 4:
        return -1.0, 1.0
    inside = 1 - 1e-12
    z, spread = math.atanh(max(-inside, min(inside, correlation))), _Z / math.sqrt(total - 3)
    return math.tanh(z - spread), math.tanh(z + spread)


def bootstrap_median(
    values: Sequence[float], draws: int = 2000, seed: int = 0
) -> tuple[float, float | None, float | None]:
    """A median and both ends, by the percentile bootstrap; the seed makes it reproducible.

    One value has no interval: None.

    Raises:
        ValueError: without values.
    """
    if not len(values):
        raise ValueError("the median of nothing")
    data = np.asarray(values, dtype=float)
    if data.size == 1:
        return float(data[0]), None, None
    from scipy.stats import bootstrap

    found = bootstrap(
        (data,),
        np.median,
        n_resamples=draws,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(np.median(data)), float(found.low), float(found.high)


def mean_t(values: Sequence[float]) -> Interval:
    """A mean, by Student's t; one value has no interval.

    Raises:
        ValueError: without values.
    """
    if not len(values):
        raise ValueError("the mean of nothing")
    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    if data.size == 1:
        return Interval(mean)
    from scipy.special import stdtrit

    half = float(stdtrit(data.size - 1, 0.975)) * float(data.std(ddof=1)) / math.sqrt(data.size)
    return Interval(mean, mean - half, mean + half)


def difference(a: Interval, b: Interval) -> Interval:
    """a − b from their intervals, by MOVER (Newcombe 1998; Zou and Donner 2008).

    For independent estimates. Scores on the same examples agree more than that, so there the
    interval is too wide rather than too narrow.
    """
    value, ends_a, ends_b = a.value - b.value, a.ends(), b.ends()
    if ends_a is None or ends_b is None:
        return Interval(value)
    low = value - math.hypot(a.value - ends_a[0], ends_b[1] - b.value)
    high = value + math.hypot(ends_a[1] - a.value, b.value - ends_b[0])
    return Interval(value, low, high)


def ratio(a: Interval, b: Interval) -> Interval:
    """a / b of positive quantities, as the difference of their logarithms."""
    return _exp(difference(_log(a), _log(b)))


def paired_difference(a: Mapping[int, float], b: Mapping[int, float]) -> Interval | None:
    """Mean of a − b over the seeds that both have; None with fewer than two."""
    shared = sorted(a.keys() & b.keys())
    return mean_t([a[seed] - b[seed] for seed in shared]) if len(shared) > 1 else None


def paired_ratio(a: Mapping[int, float], b: Mapping[int, float]) -> Interval | None:
    """Geometric mean of a / b over the seeds that both have.

    None with fewer than two, or where a value is not positive.
    """
    if any(value <= 0 for side in (a, b) for value in side.values()):
        return None
    logs = [{seed: math.log(value) for seed, value in side.items()} for side in (a, b)]
    found = paired_difference(*logs)
    return None if found is None else _exp(found)


def _log(a: Interval) -> Interval:
    ends = a.ends()
    if ends is None or ends[0] <= 0:  # an interval that reaches 0 has no logarithm: unknown
        return Interval(math.log(a.value))
    return Interval(math.log(a.value), math.log(ends[0]), math.log(ends[1]))


def _exp(a: Interval) -> Interval:
    ends = a.ends()
    if ends is None:
        return Interval(math.exp(a.value))
    return Interval(math.exp(a.value), math.exp(min(ends[0], 700)), math.exp(min(ends[1], 700)))
