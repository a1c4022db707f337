"""Change points: where the mean of a series of runs steps.

A regression tree on the number of the run is a fit of piecewise constant means: it splits where the
sum of squares falls most, and cost-complexity pruning keeps the splits that are worth a penalty
(Gey and Lebarbier 2008). The tree is scikit-learn's.
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from math import sqrt
from typing import Final

import numpy as np

from bench.stats.intervals import Floats

SHORTEST: Final = 3  # the fewest runs before and after a change point
LEVEL: Final = 0.05
"""The simulated probability of any change point in pure noise, over all series and families."""
AUTOCORRELATION: Final = 0.5
"""The correlation of neighbouring runs in the simulated noise. Too few runs are compared to
estimate it from them: with the estimate, fewer steps were found than with this constant."""
_DRAWS: Final = 4000  # simulated families of pure noise behind a penalty
_BLOCK: Final = 1_000_000  # values that are simulated at once
_UNEQUAL: Final = 0.5  # the std of the logarithms of the noise's stds over settings, assumed
_MAD: Final = 1.4826 / sqrt(2)
"""The std of normal values, divided by the median size of their first differences."""


def change_points(
    series: Sequence[Sequence[float]], limit: float, families: int = 1
) -> list[list[int]]:
    """The places in each of some series, of one measure, where a new mean begins that differs by a
    limit.

    The penalty is such that pure noise, whose neighbours correlate by up to `AUTOCORRELATION`, has
    any change point in all families, the measures that are searched, with a probability of about
    `LEVEL` at most. Series shorter than two shortest segments have no change points.
    """
    long = [np.asarray(values, dtype=float) for values in series if len(values) >= 2 * SHORTEST]
    if not long:
        return [[] for _ in series]
    runs = max(map(len, long))
    padded = np.full((len(long), runs), np.nan)
    for row, values in zip(padded, long, strict=True):
        row[: len(values)] = values
    least = limit**2 * SHORTEST / 2  # the gain from a step of this size between shortest segments
    penalties = iter(np.maximum(threshold(len(long), runs, families) * _variances(padded), least))
    return [
        _wide(values, _split(values, next(penalties)), limit) if len(values) >= 2 * SHORTEST else []
        for values in series
    ]


@cache
def threshold(series: int, runs: int, families: int = 1) -> float:
    """The gain from a split, in variances of the noise, that counts as a change point.

    It is simulated: series of noise, each minus the noise of a common reference, with variances
    estimated as those of real ones. The noise is autoregressive, so that a machine which is slow
    over several runs is no change point. It has Student's t with 5 degrees of freedom, and
    variances that vary, so that outliers and settings that scatter more are none either.
    """
    random = np.random.default_rng(0)
    highest = []
    size = min(_DRAWS, 1 + _BLOCK // (series * runs))
    for _ in range(0, _DRAWS, size):
        stds = np.exp(_UNEQUAL * random.standard_normal((size, series + 1, 1)))
        noise = stds * autoregressive(random.standard_t(5, (size, series + 1, runs)))
        values = noise[:, 1:] - noise[:, :1]
        highest.append(np.max(_best_gains(values) / _variances(values), axis=1))
    return float(np.quantile(np.concatenate(highest), 1 - LEVEL / families))


def autoregressive(shocks: Floats, correlation: float = AUTOCORRELATION) -> Floats:
    """Noise of the variance of the shocks [..., runs], whose neighbouring runs correlate."""
    noise = shocks.copy()
    for run in range(1, shocks.shape[-1]):
        noise[..., run] *= sqrt(1 - correlation**2)
        noise[..., run] += correlation * noise[..., run - 1]
    return noise


def segment_medians(values: Sequence[float], starts: Sequence[int]) -> list[float]:
    """The medians between change points, which short excursions don't move."""
    return [float(np.median(part)) for part in np.split(np.asarray(values, dtype=float), starts)]


def _variances(values: Floats) -> Floats:
    """The variance of each series' noise [..., series], which change points hardly raise. It is the
    larger of that series' own and that of all series, from the median of first differences: of few
    runs a series' own may be far too small."""
    steps = np.abs(np.diff(values))
    every = np.nanmedian(steps, axis=(-2, -1))[..., None]
    stds = _MAD * np.maximum(np.nanmedian(steps, axis=-1), every)
    return np.asarray(stds**2)


def _best_gains(values: Floats) -> Floats:
    """By how much the best split of each series lowers its sum of squares."""
    runs = values.shape[-1]
    left = np.arange(SHORTEST, runs - SHORTEST + 1)
    sums = np.cumsum(values, axis=-1)
    excess = sums[..., left - 1] - sums[..., -1:] * left / runs
    return np.asarray(np.max(excess**2 * runs / (left * (runs - left)), axis=-1))


def _split(values: Sequence[float], penalty: float) -> list[int]:
    """The starts of segments, without the first and those of excursions shorter than `SHORTEST`:
    the tree may make such, or it would take part of an excursion for a change, at a wrong place."""
    from sklearn.tree import DecisionTreeRegressor  # imported late, for it is slow

    places = np.arange(len(values))[:, None]
    tree = DecisionTreeRegressor(ccp_alpha=penalty / len(values)).fit(places, values)
    edges = [0, *(int(i) + 1 for i in np.flatnonzero(np.diff(tree.apply(places)))), len(values)]
    return [start for start, end in pairwise(edges) if end - start >= SHORTEST][1:]


def _wide(values: Sequence[float], starts: list[int], limit: float) -> list[int]:
    """The change points without the smallest, until all steps reach the limit."""
    while starts:
        sizes = np.abs(np.diff(segment_medians(values, starts)))
        smallest = int(np.argmin(sizes))
        if sizes[smallest] >= limit:
            break
        starts = starts[:smallest] + starts[smallest + 1 :]
    return starts
