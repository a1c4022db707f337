"""Intervals at 95%: of a proportion, a correlation, a median, a mean, a difference and a ratio.

Plain numbers in and out. scipy is imported where it is needed, so that who needs none of it does
not wait.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

K = TypeVar("K", int, tuple[int, int, str])
NORMAL_975: Final = 1.959963984540054
"""The 97.5% quantile of the normal distribution."""
_POWER_Z: Final = 0.8416212335729143
"""Its 80% quantile."""
_UNSEEN: Final = (3 / NORMAL_975) ** 2
"""Over N², the least variance of a mean over N examples. Where none of them differs, a share of
up to 3/N may (rule of three, Hanley and Lippman-Hand 1983), and that is then half the interval."""
_LEVEL: Final = 0.01
"""Of the test by which values scatter more than others."""


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
    share, unseen = successes / total, NORMAL_975**2 / total
    centre = share + unseen / 2
    half = math.sqrt(unseen * (share * (1 - share) + unseen / 4))
    low, high = (centre - half) / (1 + unseen), (centre + half) / (1 + unseen)
    return max(low, 0.0) if successes else 0.0, min(high, 1.0) if successes < total else 1.0


def fisher(correlation: float, total: int) -> tuple[float, float]:
    """Both ends for a Pearson correlation over `total` pairs, by Fisher's z.

    Below 4 pairs nothing is known: −1 and 1.
    """
    if total < 4:
        return -1.0, 1.0
    inside = 1 - 1e-12
    z, spread = (
        math.atanh(max(-inside, min(inside, correlation))),
        NORMAL_975 / math.sqrt(total - 3),
    )
    return math.tanh(z - spread), math.tanh(z + spread)


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


@dataclass(frozen=True)
class Spread:
    """What the mean of numbers over seeds and examples varies by.

    Attributes:
        mean: over all S seeds and N examples.
        of_seeds: variance between the seeds' means; None with one seed, which shows none.
        of_examples: variance between the examples' means over seeds; never less than N examples
            leave unseen.
        seeds, examples: S and N.
    """

    mean: float
    of_seeds: float | None
    of_examples: float
    seeds: int
    examples: int

    def half_width(self, seeds: int | None = None) -> float:
        """Half the 95% interval, with so many seeds; by default those that there are.

        The variances of seeds and of examples add up, each divided by its number; Student's t has
        the degrees of freedom of Satterthwaite (1946). What a seed and an example have in common
        counts in both, so the interval is rather too wide. Of one seed it is for the examples
        alone.
        """
        from scipy.special import stdtrit

        by_seed = (self.of_seeds or 0.0) / (seeds or self.seeds)
        by_example = self.of_examples / self.examples
        total = by_seed + by_example
        freedom = by_example**2 / max(self.examples - 1, 1)
        if by_seed:
            freedom += by_seed**2 / max((seeds or self.seeds) - 1, 1)
        return float(stdtrit(total**2 / freedom, 0.975)) * math.sqrt(total)

    def interval(self) -> Interval:
        """The mean with its 95% interval."""
        half = self.half_width()
        return Interval(self.mean, self.mean - half, self.mean + half)

    def seeds_for(self, size: float, most: int = 1000) -> int | None:
        """How many seeds show a difference of `size` four times out of five; None if `most` don't.

        Raises:
            ValueError: with one seed, from which that can't be known.
        """
        if self.of_seeds is None:
            raise ValueError("one seed does not show how seeds vary")
        farther = 1 + _POWER_Z / NORMAL_975
        return next((n for n in range(2, most + 1) if farther * self.half_width(n) < size), None)


def spread(values: NDArray[np.float64]) -> Spread:
    """The spread of numbers [S, N] over S seeds and N examples.

    Raises:
        ValueError: unless there is a seed with an example.
    """
    if values.ndim != 2 or not values.size:
        raise ValueError("a spread is over seeds and examples")
    seeds, examples = values.shape
    seen = float(values.mean(axis=0).var(ddof=1)) if examples > 1 else 0.0
    return Spread(
        mean=float(values.mean()),
        of_seeds=float(values.mean(axis=1).var(ddof=1)) if seeds > 1 else None,
        of_examples=max(seen, _UNSEEN / examples),
        seeds=seeds,
        examples=examples,
    )


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


def mean_of(parts: Sequence[Interval]) -> Interval:
    """The mean of independent estimates of different things, by MOVER as `difference`.

    Raises:
        ValueError: without estimates.
    """
    if not parts:
        raise ValueError("the mean of nothing")
    value = sum(part.value for part in parts) / len(parts)
    ends = [part.ends() for part in parts]
    known = [pair for pair in ends if pair is not None]
    if len(known) < len(parts):
        return Interval(value)
    gaps = [
        math.hypot(*(pair[side] - part.value for pair, part in zip(known, parts, strict=True)))
        for side in (0, 1)
    ]
    return Interval(value, value - gaps[0] / len(parts), value + gaps[1] / len(parts))


def ratio(a: Interval, b: Interval) -> Interval:
    """a / b of positive quantities, as the difference of their logarithms."""
    return _exp(difference(_log(a), _log(b)))


def paired_difference(a: Mapping[K, float], b: Mapping[K, float]) -> Interval | None:
    """Mean of a − b over the seeds, or runs, that both have; None with fewer than two."""
    shared = sorted(a.keys() & b.keys())
    return mean_t([a[key] - b[key] for key in shared]) if len(shared) > 1 else None


def paired_ratio(a: Mapping[K, float], b: Mapping[K, float]) -> Interval | None:
    """Geometric mean of a / b over the seeds, or runs, that both have.

    None with fewer than two, or where a value is not positive.
    """
    if any(value <= 0 for side in (a, b) for value in side.values()):
        return None
    found = paired_difference(*({k: math.log(v) for k, v in side.items()} for side in (a, b)))
    return None if found is None else _exp(found)


@dataclass(frozen=True)
class Std:
    """A standard deviation, with the degrees of freedom of its estimate; None: it is given."""

    value: float
    freedom: int | None = None

    def half_width(self, number: int = 1) -> float:
        """Half the 95% interval of the mean of so many values that vary by it."""
        from scipy.special import stdtrit

        quantile = NORMAL_975 if self.freedom is None else float(stdtrit(self.freedom, 0.975))
        return quantile * self.value / math.sqrt(number)


def pooled(samples: Iterable[Sequence[float]]) -> Std | None:
    """The std that samples have in common, each about a mean of its own.

    None where no sample has two values.
    """
    several = [np.asarray(sample, dtype=float) for sample in samples if len(sample) > 1]
    freedom = sum(len(sample) - 1 for sample in several)
    if not freedom:
        return None
    squares = sum(float(((sample - sample.mean()) ** 2).sum()) for sample in several)
    return Std(math.sqrt(squares / freedom), freedom)


def scattered(runs: Sequence[Interval], std: Std) -> Interval:
    """The mean of positive quantities, whose logarithms are in a pool with others.

    One run counts as known no better than by the pool's std, nor than by the intervals that
    runs hold themselves, on average. Where runs scatter more than the rest of the pool, their own
    std counts, if it makes the interval wider.
    """
    mean = sum(run.value for run in runs) / len(runs)
    logs = [_log(run) for run in runs if run.value > 0]
    own = [(ends[1] - ends[0]) / 2 for log in logs if (ends := log.ends())]
    one = max(std.half_width(), sum(own) / max(len(own), 1))
    half = one / math.sqrt(len(runs))
    larger = _larger([log.value for log in logs], std)
    if larger is not None:
        half = max(half, larger.half_width(len(runs)))
    half = min(half, 700)
    return Interval(mean, mean * math.exp(-half), mean * math.exp(half))


def _larger(values: Sequence[float], of_pool: Std) -> Std | None:
    """The std of some values of a pool, where it is larger than the rest's; else None.

    By an F test of both variances, in the form of the beta distribution of the rest's share of all
    squares.
    """
    own = pooled([values])
    if own is None or of_pool.freedom is None:
        return None
    freedom = len(values) - 1
    rest, squares = of_pool.freedom - freedom, of_pool.freedom * of_pool.value**2
    if rest <= 0 or not squares:
        return None
    from scipy.special import betainc

    share = min(max(1 - freedom * own.value**2 / squares, 0.0), 1.0)
    return own if betainc(rest / 2, freedom / 2, share) < _LEVEL else None


def widened(a: Interval, std: Std) -> Interval:
    """A positive quantity's interval, with what its logarithm varies by between runs in it.

    A std that was measured between runs has in it what one run shows of itself, so either
    interval may be the wider one; one that is given comes on top. What is not positive, or has no
    interval, stays as it is.
    """
    log = _log(a) if a.value > 0 else a
    ends = log.ends() if a.value > 0 else None
    if ends is None:
        return a
    more, within = std.half_width(), [abs(end - log.value) for end in ends]
    low, high = (
        math.hypot(half, more) if std.freedom is None else max(half, more) for half in within
    )
    return _exp(Interval(log.value, log.value - low, log.value + high))


def _log(a: Interval) -> Interval:
    ends = a.ends()
    if ends is None or min(ends) <= 0:  # an interval that reaches 0 has no logarithm: unknown
        return Interval(math.log(a.value))
    return Interval(math.log(a.value), math.log(ends[0]), math.log(ends[1]))


def _exp(a: Interval) -> Interval:
    ends = a.ends()
    if ends is None:
        return Interval(math.exp(min(a.value, 700)))
    value, low, high = (math.exp(min(x, 700)) for x in (a.value, *ends))
    return Interval(value, low, high)
