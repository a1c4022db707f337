"""Log ratios and differences of two sides over many settings, with errors, and how many repeats
would decide. Plain numbers in and out; arrays are by setting [K] unless they say otherwise.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.stats.intervals import POWER_Z, scatters_more

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WITHIN_Z: Final = 1.2815515655446004
"""The 90% quantile of the normal distribution: an estimate of no difference is within both limits
in 80% of cases if these are so many standard errors further away than the interval's ends."""
_MOST: Final = 10_000
"""The largest number of repeats that is named."""
_NODES: Final = 200
"""Points of integration, for six digits of a nominal level."""


@cache
def nominal_level(alpha: float, looks: int) -> float:
    """The two-sided level of each of several looks at growing data (Pocock 1977).

    A boundary that is the same at every look: with equally many repeats added before each, an
    effect that isn't there passes it at any of them with probability `alpha`. By recursion over the
    distribution of sums that have not passed it yet (Armitage, McPherson and Rowe 1969).
    """
    if looks == 1:
        return alpha
    from scipy.optimize import brentq
    from scipy.special import ndtr, ndtri

    nodes, weights = np.polynomial.legendre.leggauss(_NODES)

    def excess(critical: float) -> float:
        sums, density = np.zeros(1), np.ones(1)
        for look in range(1, looks + 1):
            end = critical * math.sqrt(look)
            if look == looks:
                inside = density @ (ndtr(end - sums) - ndtr(-end - sums))
                return float(1 - inside) - alpha
            steps = (end * nodes)[:, None] - sums[None, :]
            kernel = np.exp(-(steps**2) / 2) / math.sqrt(2 * math.pi)
            sums, density = end * nodes, (kernel @ density) * weights * end
        raise AssertionError

    least = float(-ndtri(alpha / 2))
    critical = brentq(excess, least, float(-ndtri(alpha / 2 / looks)), xtol=1e-10)
    return float(2 * ndtr(-critical))


def quantile(level: float, freedom: NDArray[np.floating] | float) -> Floats:
    """Standard errors from an estimate to the ends of its interval: Student's t, at a two-sided
    level. Infinite degrees of freedom: the std is a constant."""
    from scipy.special import ndtri, stdtrit

    freedom = np.asarray(freedom, dtype=float)
    student = stdtrit(np.where(np.isinf(freedom), 1.0, freedom), 1 - level / 2)
    return np.asarray(np.where(np.isinf(freedom), -ndtri(level / 2), student))


@dataclass(frozen=True, eq=False)
class Estimates:
    """Estimates by setting with their errors; NaN where there is none.

    Attributes:
        value: the estimate.
        error: its standard error.
        freedom: degrees of freedom of that error; infinite: it is a constant.
        single: the standard error that one repeat of each side would have.
        number: the number of repeats behind the value, pairs or those of the smaller side.
    """

    value: Floats
    error: Floats
    freedom: Floats
    single: Floats
    number: Ints

    def half_width(self, level: float) -> Floats:
        """Half the intervals at a two-sided level."""
        return quantile(level, self.freedom) * self.error

    def part(self, which: "slice | NDArray[np.bool_]") -> "Estimates":
        """The estimates of some settings."""
        return Estimates(*(values[which] for values in vars(self).values()))

    def where(self, which: NDArray[np.bool_], other: "Estimates") -> "Estimates":
        """These estimates of some settings, and others of the rest."""
        both = zip(vars(self).values(), vars(other).values(), strict=True)
        return Estimates(*(np.where(which, mine, rest) for mine, rest in both))


def sample_means(values: Floats, samples: Ints, count: int, constant: float) -> Estimates:
    """Means of samples whose std is pooled, each about its own mean.

    A sample that scatters significantly more than the rest has its own std.

    Args:
        values, samples: the values and the sample of each [N].
        count: the number of samples.
        constant: the std where no sample has two values.
    """
    number: Ints = np.bincount(samples, minlength=count)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(samples, values, count) / number
    squares: Floats = np.bincount(samples, (values - mean[samples]) ** 2, count)
    own = np.maximum(number - 1, 0)
    total, freedom = float(squares.sum()), int(own.sum())
    std = np.full(count, math.sqrt(total / freedom) if freedom else constant)
    by_sample = np.full(count, float(freedom) if freedom else math.inf)
    wide = scatters_more(squares, own, total, freedom)
    std[wide], by_sample[wide] = np.sqrt(squares[wide] / own[wide]), own[wide]
    error = np.where(number > 0, std / np.sqrt(np.maximum(number, 1)), math.nan)
    return Estimates(mean, error, by_sample, std, number)


def unpaired(base: Estimates, new: Estimates) -> Estimates:
    """Differences NEW − BASE of means of two sides without pairs."""
    return Estimates(
        new.value - base.value,
        np.hypot(base.error, new.error),
        np.minimum(base.freedom, new.freedom),
        np.hypot(base.single, new.single),
        np.minimum(base.number, new.number),
    )


def mean_of_settings(estimates: Estimates, shared: Ints) -> Estimates:
    """The mean over settings, as one estimate [1].

    Its error is that of resampling the repeats within each setting, in closed form: the settings
    are fixed, and their errors add up as those of independent estimates. Those of settings that
    are compared with one and the same setting are taken as equal, which is rather too wide.

    Args:
        estimates: none of them NaN.
        shared: the setting of BASE of each.
    """
    count = len(estimates.value)
    totals = np.bincount(shared, estimates.error)
    singles = np.bincount(shared, estimates.single)
    return Estimates(
        np.array([estimates.value.mean()]),
        np.array([math.sqrt(float((totals**2).sum())) / count]),
        np.array([estimates.freedom.max()]),
        np.array([math.sqrt(float((singles**2).sum())) / count]),
        np.array([estimates.number.min()]),
    )


def needed_repeats(estimates: Estimates, limit: float, level: float) -> list[int | None]:
    """The number of repeats of each side that would decide, four times out of five.

    That is the number by which an interval about no difference is within ± limit; where there are
    as many already, because the estimate is close to the limit, the number by which the interval
    leaves the limit on its one side or the other. None: more than 10,000, or no number.
    """
    known = (estimates.single > 0) & np.isfinite(estimates.value)
    single = np.where(known, estimates.single, 1.0)
    gap = np.abs(np.abs(estimates.value) - limit) / single
    pool = estimates.freedom == np.max(estimates.freedom, initial=0.0)
    # a setting with a std of its own has the degrees of freedom of its repeats alone
    settings = np.where(pool, max(int(known.sum()), 1), 1)
    least, other = (
        np.where(pool, *(_fewest(gaps, power, level, int(n)) for n in (settings.max(initial=1), 1)))
        for gaps, power in ((limit / single, WITHIN_Z), (gap, POWER_Z))
    )
    numbers = np.where(least > estimates.number, least, np.maximum(other, estimates.number + 1))
    return [
        int(number) if is_known and number <= _MOST else None
        for number, is_known in zip(numbers, known, strict=True)
    ]


def _fewest(gaps: Floats, power: float, level: float, settings: int) -> Ints:
    """The fewest repeats whose interval, with this power, is narrower than gaps in errors of one.

    More than `_MOST` where none is.
    """
    numbers = np.unique(np.geomspace(2, _MOST, 2000).astype(np.int64))
    widths = (quantile(level, settings * (numbers - 1.0)) + power) / np.sqrt(numbers)
    places = np.searchsorted(-widths, -gaps)  # widths fall
    return np.append(numbers, _MOST + 1)[places]
