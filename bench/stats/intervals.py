"""Intervals of a proportion, a correlation, a mean, a difference and a ratio; 95% by default.

Plain numbers in and out. scipy is imported only where it is needed, because importing it is slow.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
K = TypeVar("K", int, tuple[int, int, int, str])
NORMAL_975: Final = 1.959963984540054  # the 97.5% quantile of the normal distribution
POWER_Z: Final = 0.8416212335729143  # the 80% quantile of the normal distribution
UNSEEN: Final = (3 / NORMAL_975) ** 2
"""Divided by N², the least variance of a mean over N examples. If no example differs, the true
share may still be up to 3/N (rule of three, Hanley and Lippman-Hand 1983); half the interval is
then 3/N."""
_LEVEL: Final = 0.01  # significance level of the test whether some values scatter more than others


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval; `low` and `high` are None where there is no interval."""

    value: float
    low: float | None = None
    high: float | None = None

    def ends(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)

    def holds(self, value: float) -> bool | None:
        """Whether the interval holds a value; None where there is no interval."""
        ends = self.ends()
        return None if ends is None else ends[0] <= value <= ends[1]


def wilson(successes: int, total: int) -> tuple[float, float]:
    """Both ends of a proportion's score interval (Wilson 1927); ValueError unless 0 ≤ successes ≤
    total and total > 0."""
    if not 0 <= successes <= total or total == 0:
        raise ValueError(f"{successes} of {total} is no proportion")
    share, unseen = successes / total, NORMAL_975**2 / total
    centre = share + unseen / 2
    half = math.sqrt(unseen * (share * (1 - share) + unseen / 4))
    low, high = (centre - half) / (1 + unseen), (centre + half) / (1 + unseen)
    return max(low, 0.0) if successes else 0.0, min(high, 1.0) if successes < total else 1.0


def fisher(correlation: float, total: int) -> tuple[float, float]:
    """Both ends of the interval of a Pearson correlation over `total` pairs, by Fisher's z; −1 and
    1 with fewer than 4, which show nothing."""
    if total < 4:
        return -1.0, 1.0
    inside = 1 - 1e-12
    z = math.atanh(max(-inside, min(inside, correlation)))
    half = NORMAL_975 / math.sqrt(total - 3)
    return math.tanh(z - half), math.tanh(z + half)


def quantile(level: float, freedom: NDArray[np.floating] | float) -> Floats:
    """Standard errors from an estimate to the ends of its interval: Student's t, at a two-sided
    level. Infinite degrees of freedom: the std is a constant."""
    from scipy.special import ndtri, stdtrit

    freedom = np.asarray(freedom, dtype=float)
    student = stdtrit(np.where(np.isinf(freedom), 1.0, freedom), 1 - level / 2)
    return np.asarray(np.where(np.isinf(freedom), -ndtri(level / 2), student))


def mean_t(values: Sequence[float]) -> Interval:
    """A mean with its interval by Student's t, none for one value; ValueError without any."""
    if not len(values):
        raise ValueError("the mean of nothing")
    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    if data.size == 1:
        return Interval(mean)
    half = float(quantile(0.05, data.size - 1) * data.std(ddof=1)) / math.sqrt(data.size)
    return Interval(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Spread:
    """The mean of numbers over seeds and examples, and the variances of their two-way layout,
    together at least `UNSEEN` / N. With one seed, that of examples has the interaction in it."""

    mean: float  # over all S seeds and N examples
    of_seeds: float | None  # between seeds' means, with the interaction; None with one seed
    of_examples: float  # between examples, which more seeds do not reduce
    seeds: int
    examples: int
    interaction: float = 0.0  # divided by N, the least variance of seeds' means
    pooled: float | None = None  # degrees of freedom of `of_seeds`, if pooled over settings

    def half_width(self, level: float = 0.05) -> float:
        """Half the interval at a two-sided level; with one seed it covers examples only."""
        error, freedom = self.error()
        return float(quantile(level, freedom)) * error

    def error(self) -> tuple[float, float]:
        """The standard error of the mean, and its degrees of freedom. The variances of seeds and of
        examples add up, each divided by its number."""
        error, freedom = self.errors(np.array([self.seeds]))
        return float(error[0]), float(freedom[0])

    def errors(self, seeds: Ints) -> tuple[Floats, Floats]:
        """The same for other numbers of seeds, if the variances stay as they are."""
        measured = self.of_seeds or 0.0
        least = self.interaction / self.examples
        # Where the least counts, which is known well, the measured part alone is uncertain.
        sure = (least / measured) ** 2 if 0 < measured < least else 1.0
        of_seeds = (self.pooled or np.maximum(seeds - 1, 1)) * sure
        variances = max(measured, least) / seeds, self.of_examples / self.examples
        return satterthwaite(variances, (of_seeds, max(self.examples - 1, 1)))

    def interval(self, level: float = 0.05) -> Interval:
        half = self.half_width(level)
        return Interval(self.mean, self.mean - half, self.mean + half)


def satterthwaite(variances: Iterable[Any], freedoms: Iterable[Any]) -> tuple[Floats, Floats]:
    """The standard error of a sum of independent estimates, and its degrees of freedom, from the
    variance and degrees of freedom of each, numbers or arrays (Satterthwaite 1946)."""
    pairs = list(zip(variances, freedoms, strict=True))
    total = np.asarray(sum(variance for variance, _ in pairs), dtype=float)
    lost = np.asarray(sum(variance**2 / freedom for variance, freedom in pairs), dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(total), np.where(lost > 0, total**2 / lost, np.inf)


def spread(values: Floats) -> Spread:
    """The spread of numbers [S, N] over S seeds and N examples; ValueError without one of each."""
    if values.ndim != 2 or not values.size:
        raise ValueError("a spread is over seeds and examples")
    seeds, examples = values.shape
    by_seed, by_example = values.mean(axis=1), values.mean(axis=0)
    seen = float(by_example.var(ddof=1)) if examples > 1 else 0.0
    rest = values - by_seed[:, None] - by_example + values.mean()
    interaction = float((rest**2).sum()) / max((seeds - 1) * (examples - 1), 1)
    return Spread(
        mean=float(values.mean()),
        of_seeds=float(by_seed.var(ddof=1)) if seeds > 1 else None,
        of_examples=max(seen - interaction / seeds, UNSEEN / examples - interaction, 0.0),
        seeds=seeds,
        examples=examples,
        interaction=interaction,
    )


def around_correlation(over: Spread) -> tuple[float, float]:
    """Both ends of the interval of a correlation, from its examples' influences. On the scale of
    Fisher's z, and at least as wide as for normal numbers: those with heavy tails need a wider
    one."""
    least, inside = fisher(over.mean, over.examples), 1 - over.mean**2
    if over.examples < 4 or inside <= 0:
        return least
    z, half = math.atanh(over.mean), over.half_width() / inside
    return min(least[0], math.tanh(z - half)), max(least[1], math.tanh(z + half))


def difference(a: Interval, b: Interval) -> Interval:
    """a − b from their intervals, by MOVER (Newcombe 1998; Zou and Donner 2008). For independent
    estimates. Scores on the same examples are correlated: for them the interval is rather too
    wide."""
    value, ends_a, ends_b = a.value - b.value, a.ends(), b.ends()
    if ends_a is None or ends_b is None:
        return Interval(value)
    low = value - math.hypot(a.value - ends_a[0], ends_b[1] - b.value)
    high = value + math.hypot(ends_a[1] - a.value, b.value - ends_b[0])
    return Interval(value, low, high)


def mean_of(parts: Sequence[Interval]) -> Interval:
    """The mean of independent estimates of different quantities, by MOVER as in `difference`;
    ValueError without estimates."""
    if not parts:
        raise ValueError("the mean of nothing")
    value = sum(part.value for part in parts) / len(parts)
    gaps = [(part.value - ends[0], ends[1] - part.value) for part in parts if (ends := part.ends())]
    if len(gaps) < len(parts):
        return Interval(value)
    below, above = (math.hypot(*side) / len(parts) for side in zip(*gaps, strict=True))
    return Interval(value, value - below, value + above)


def ratio(a: Interval, b: Interval) -> Interval:
    """a / b of positive quantities, as the difference of their logarithms."""
    return _exp(difference(_log(a), _log(b)))


def paired_difference(a: Mapping[K, float], b: Mapping[K, float]) -> Interval | None:
    """Mean of a − b over the seeds or runs that both have; None with fewer than two."""
    shared = sorted(a.keys() & b.keys())
    return mean_t([a[key] - b[key] for key in shared]) if len(shared) > 1 else None


def paired_ratio(a: Mapping[K, float], b: Mapping[K, float]) -> Interval | None:
    """Geometric mean of a / b over the seeds or runs that both have; None with fewer than two, or
    where a value is not positive."""
    if any(value <= 0 for side in (a, b) for value in side.values()):
        return None
    logs = paired_difference(*({k: math.log(v) for k, v in side.items()} for side in (a, b)))
    return None if logs is None else _exp(logs)


@dataclass(frozen=True)
class Std:
    """A standard deviation, with the degrees of freedom of its estimate."""

    value: float
    freedom: int

    def half_width(self, number: int = 1) -> float:
        """Half the 95% interval of the mean of a number of values with this standard deviation."""
        return float(quantile(0.05, self.freedom)) * self.value / math.sqrt(number)


def pooled(samples: Iterable[Sequence[float]]) -> Std | None:
    """The pooled std of samples, each about its own mean; None where no sample has two values."""
    several = [np.asarray(sample, dtype=float) for sample in samples if len(sample) > 1]
    freedom = sum(len(sample) - 1 for sample in several)
    if not freedom:
        return None
    squares = sum(float(((sample - sample.mean()) ** 2).sum()) for sample in several)
    return Std(math.sqrt(squares / freedom), freedom)


def scattered(runs: Sequence[Interval], std: Std) -> Interval:
    """The mean of positive quantities, one or several, whose logarithms belong to a pool of runs.
    The uncertainty of one run is that of the pool's std, or of the runs' own intervals on average,
    whichever is larger. Where the runs scatter more than the rest of the pool, their own std is
    used if it makes the interval wider."""
    mean = sum(run.value for run in runs) / len(runs)
    logs = [_log(run) for run in runs if run.value > 0]
    own = [(ends[1] - ends[0]) / 2 for log in logs if (ends := log.ends())]
    one = max(std.half_width(), sum(own) / max(len(own), 1))
    half = one / math.sqrt(len(runs))
    if own_std := pooled([[log.value for log in logs]]):
        freedom = np.array([own_std.freedom])
        whole = std.freedom * std.value**2, std.freedom
        if scatters_more(freedom * own_std.value**2, freedom, *whole)[0]:
            half = max(half, own_std.half_width(len(runs)))
    half = min(half, 700)
    return Interval(mean, mean * math.exp(-half), mean * math.exp(half))


def scatters_more(
    squares: Floats, freedom: Ints, all_squares: float, all_freedom: int
) -> NDArray[np.bool_]:
    """Whether samples of a pool scatter significantly more than the rest of it [K], from the sums
    of squares and the degrees of freedom of each [K] and of the whole pool. By an F test of both
    variances, written with the beta distribution of the rest's share of the sum of squares."""
    from scipy.special import betainc

    rest = all_freedom - freedom
    if not all_squares:
        return np.zeros(len(squares), dtype=bool)
    share = np.clip(1 - squares / all_squares, 0.0, 1.0)
    known = (rest > 0) & (freedom > 0)
    halves = np.where(known, rest, 1) / 2, np.where(known, freedom, 1) / 2
    return np.asarray(known & (betainc(*halves, share) < _LEVEL))


def _log(a: Interval) -> Interval:
    ends = a.ends()
    if ends is None or min(ends) <= 0:  # an interval that reaches 0 has no logarithm
        return Interval(math.log(a.value))
    return Interval(*map(math.log, (a.value, *ends)))


def _exp(a: Interval) -> Interval:
    return Interval(*(math.exp(min(x, 700)) for x in (a.value, *(a.ends() or ()))))
