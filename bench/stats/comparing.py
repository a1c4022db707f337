"""Log ratios and differences of two sides over many settings, with errors, and how many repeats
would decide. Plain numbers in and out; arrays are by setting [K] unless they say otherwise.
"""

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.stats import intervals
from bench.stats.intervals import POWER_Z, Floats, Ints, Spread, quantile

FAMILY: Final = 0.05  # the probability that any interval of a comparison misses its true value
WITHIN_Z: Final = 1.2815515655446004
"""The 90% quantile of the normal distribution: an estimate of no difference is within both limits
in 80% of cases if these are so many standard errors further away than the interval's ends."""
_CAUTION: Final = 0.25
"""The probability that the std which repeats are planned with is too small, where few repeats show
it: with the estimate itself, the planned repeats decide in half to three quarters of cases."""
_NUMBERS: Final = np.arange(2, 1001)  # the numbers of repeats or seeds that are named
_NODES: Final = 200  # points of integration, for six digits of a nominal level


@cache
def nominal_level(alpha: float, looks: int) -> float:
    """The two-sided level of each of several looks at growing data (Pocock 1977).

    A boundary that is the same at every look: with equally many repeats added before each, an
    effect that isn't there passes it at any of them with probability `alpha` if the std is known,
    and approximately so with quantiles of Student's t. By recursion over the distribution of sums
    that have not passed it yet (Armitage, McPherson and Rowe 1969).
    """
    if looks == 1:
        return alpha
    from scipy.optimize import brentq
    from scipy.special import ndtr, ndtri

    nodes, weights = np.polynomial.legendre.leggauss(_NODES)

    def excess(critical: float) -> float:
        sums, density = np.zeros(1), np.ones(1)
        for look in range(1, looks):
            end = critical * math.sqrt(look)
            steps = (end * nodes)[:, None] - sums[None, :]
            kernel = np.exp(-(steps**2) / 2) / math.sqrt(2 * math.pi)
            sums, density = end * nodes, (kernel @ density) * weights * end
        end = critical * math.sqrt(looks)
        return float(1 - density @ (ndtr(end - sums) - ndtr(-end - sums))) - alpha

    least = float(-ndtri(alpha / 2))
    critical = brentq(excess, least, float(-ndtri(alpha / 2 / looks)), xtol=1e-10)
    return float(2 * ndtr(-critical))


@dataclass(frozen=True, eq=False)
class Estimates:
    """Estimates by setting with their errors; NaN where there is none."""

    value: Floats
    error: Floats  # standard errors
    freedom: Floats  # degrees of freedom of the errors; infinite: they are constants
    single: Floats  # the standard error that one repeat of each side would have
    number: Ints  # of repeats behind the value: pairs, or those of the smaller side
    pooled: Floats  # degrees of freedom that one more repeat of all settings would add

    def ends(self, level: float, more: Floats | float = 0.0) -> tuple[Floats, Floats]:
        """Both ends of the intervals at a two-sided level; `more` is half that of something else
        that is added, independent of these errors."""
        half = np.hypot(quantile(level, self.freedom) * self.error, more)
        return self.value - half, self.value + half

    def part(self, which: "slice | NDArray[np.bool_]") -> "Estimates":
        return Estimates(*(values[which] for values in vars(self).values()))

    def where(self, which: NDArray[np.bool_], other: "Estimates") -> "Estimates":
        """These estimates of some settings, and others of the rest."""
        both = zip(vars(self).values(), vars(other).values(), strict=True)
        return Estimates(*(np.where(which, mine, rest) for mine, rest in both))


def sample_means(
    values: Floats, samples: Ints, count: int, constant: float, weights: Floats | float = 1.0
) -> Estimates:
    """Means of samples whose std is pooled, each about its own mean. A sample that scatters
    significantly more than the rest has its own std. It is pooled all the same, since others may
    scatter more without showing it, unless it has nearly all squares.

    Args:
        values, samples: the values, of which NaN don't count, and the sample of each [N].
        count: the number of samples.
        constant: the std where no sample has two values.
        weights: the shares of the samples' degrees of freedom that count in the pool, below 1 for
            samples that are not independent.
    """
    values, samples = values[known := np.isfinite(values)], samples[known]
    number = np.bincount(samples, minlength=count).astype(np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(samples, values, count) / number
    squares = np.bincount(samples, (values - mean[samples]) ** 2, count).astype(float)
    own = np.maximum(number - 1, 0)
    wide = intervals.scatters_more(squares, own, float(squares.sum()), int(own.sum()))
    far = wide & (squares > 0.9 * squares.sum())
    rest, counted = own[~far].sum(), np.where(far, 0.0, weights)
    std = np.full(count, math.sqrt(squares[~far].sum() / rest) if rest else constant)
    freedom = np.full(count, float((own * counted).sum()) if rest else math.inf)
    pooled = np.full(count, float(counted[number > 0].sum()))
    std[wide], freedom[wide], pooled[wide] = np.sqrt(squares[wide] / own[wide]), own[wide], 1.0
    error = np.where(number > 0, std / np.sqrt(np.maximum(number, 1)), math.nan)
    return Estimates(mean, error, freedom, std, number, pooled)


def unpaired(base: Estimates, new: Estimates) -> Estimates:
    """Differences NEW − BASE of means of two sides without pairs."""
    return Estimates(
        new.value - base.value, np.hypot(base.error, new.error),
        np.minimum(base.freedom, new.freedom), np.hypot(base.single, new.single),
        np.minimum(base.number, new.number), np.minimum(base.pooled, new.pooled),
    )  # fmt: skip


def mean_of_settings(estimates: Estimates, shared: Ints) -> Estimates:
    """The mean over settings, none of them NaN, as one estimate [1]. Its error is that of
    resampling the repeats within each setting, in closed form: the settings are fixed, and their
    errors add up as those of independent estimates. Those of settings that share their setting of
    BASE are taken as equal, which is rather too wide."""
    count = len(estimates.value)
    _, first, pools = np.unique(estimates.single, return_index=True, return_inverse=True)
    # the variance of the sum, by settings whose std is one estimate
    variances = np.bincount(pools, estimates.error * np.bincount(shared, estimates.error)[shared])
    error, freedom = intervals.satterthwaite(variances, estimates.freedom[first])
    _, pooled = intervals.satterthwaite(variances, estimates.pooled[first])
    singles = np.bincount(shared, estimates.single)
    return Estimates(
        np.array([estimates.value.mean()]), np.array([error / count]), np.array([freedom]),
        np.array([math.sqrt(float((singles**2).sum())) / count]),
        np.array([estimates.number.min()]), np.array([pooled]),
    )  # fmt: skip


def holm(p_values: Floats, level: float) -> NDArray[np.bool_]:
    """Which hypotheses are rejected, with a probability of `level` that any is wrongly (Holm 1979).
    A hypothesis that was not tested has a p-value of 1, and counts."""
    order = np.argsort(p_values, kind="stable")
    passed = p_values[order] <= level / np.arange(len(order), 0, -1)
    rejected = np.zeros(len(order), dtype=bool)
    rejected[order] = np.logical_and.accumulate(passed)
    return rejected


def needed_repeats(estimates: Estimates, limit: float, level: float) -> list[int | None]:
    """The number of repeats of each side that would decide, four times out of five. That is the
    number by which an interval about no difference is within ± limit; where there are as many
    already, because the estimate is close to the limit, the number by which the interval leaves the
    limit on its one side or the other. None: more than 1,000, or no number."""
    from scipy.special import chdtri

    freedom = np.where(np.isfinite(estimates.freedom), estimates.freedom, 1.0)
    larger = np.sqrt(freedom / chdtri(freedom, 1 - _CAUTION))
    single = estimates.single * np.where(np.isfinite(estimates.freedom), larger, 1.0)
    estimates = replace(estimates, single=single)
    known = (estimates.single > 0) & np.isfinite(estimates.value)
    numbers = np.full(len(known), _NUMBERS[-1] + 1)
    for size in set(estimates.pooled[known].tolist()):
        mine = estimates.part(chosen := known & (estimates.pooled == size))
        quantiles = quantile(level, size * (_NUMBERS - 1.0))
        least, other = (
            _fewest(gaps / mine.single, (quantiles + power) / np.sqrt(_NUMBERS))
            for gaps, power in ((limit, WITHIN_Z), (np.abs(np.abs(mine.value) - limit), POWER_Z))
        )
        numbers[chosen] = np.where(least > mine.number, least, np.maximum(other, mine.number + 1))
    return [number if number <= _NUMBERS[-1] else None for number in numbers.tolist()]


def needed_seeds(over: Spread, limit: float, level: float) -> int | None:
    """The number of seeds whose interval about no difference is within ± limit, four times out of
    five; None: more than 1,000, or no number."""
    error, freedom = over.errors(_NUMBERS)
    seeds = int(_fewest(np.float64(limit), (quantile(level, freedom) + WITHIN_Z) * error))
    return seeds if seeds <= _NUMBERS[-1] else None


def _fewest(gaps: "Floats | np.float64", widths: Floats) -> Ints:
    """The fewest repeats at which an interval, whose widths fall with their number, is narrower
    than a gap; 1,001 where none is."""
    return np.asarray(np.append(_NUMBERS, _NUMBERS[-1] + 1)[np.searchsorted(-widths, -gaps)])
