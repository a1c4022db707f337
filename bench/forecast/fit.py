"""Linear models with non-negative coefficients, fitted to few measurements and a prior."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import numpy as np

from bench.forecast.costs import Variant

NOISE: Final = 0.03  # the relative error of a measurement that no model explains
WITHIN: Final = 0.1  # the relative error up to which a prediction counts as right

Features = tuple[float, ...]


@dataclass(frozen=True)
class Prior:
    """Expected coefficients before anything is measured, and how far they may be off. With `rates`,
    they are known only up to a common factor, which is fitted as the median of the measurements'
    ratios to the prior."""

    values: tuple[float, ...]
    spread: tuple[float, ...]
    rates: bool = False


def fit(
    design: Sequence[Sequence[float]], measured: Sequence[float], prior: Prior
) -> tuple[float, ...]:
    """Non-negative coefficients of a linear model from the features [n, k] of measurements [n]
    above 0, and a prior of k coefficients, whose values are returned where nothing is measured.

    They minimise the squared relative errors, in units of `NOISE`, plus the squared distances from
    the prior, in units of its spread: ridge regression about the prior. So one measurement moves
    them a little, and many determine those that they identify.
    """
    if not len(measured):
        return prior.values
    from scipy.optimize import nnls

    x, y = np.asarray(design, dtype=float), np.asarray(measured, dtype=float)
    values, spread = np.asarray(prior.values), np.asarray(prior.spread)
    if prior.rates:
        factor = np.median(y / (x @ values))
        values, spread = factor * values, factor * spread
    rows = np.concatenate([x / y[:, None] / NOISE, np.diag(1 / spread)])
    targets = np.concatenate([np.full(len(y), 1 / NOISE), values / spread])
    scale = np.linalg.norm(rows, axis=0)  # features differ by many orders of magnitude
    solution, _ = nnls(rows / scale, targets)
    return tuple(float(value) for value in solution / scale)


def apply(coefficients: Sequence[float], features: Sequence[float]) -> float:
    return sum(c * f for c, f in zip(coefficients, features, strict=True))


class Fit:
    """A linear model of one cost, fitted anew as measurements come, with the features of every
    variant that is predicted or learned from."""

    def __init__(self, features: Mapping[Variant, Features], prior: Prior) -> None:
        self.prior = prior
        self._features = features
        self._measured: dict[Variant, list[float]] = {}
        self._coefficients: Sequence[float] | None = None

    def learn(self, variant: Variant, value: float) -> None:
        self._measured.setdefault(variant, []).append(value)
        self._coefficients = None

    def expect(self, prior: Prior) -> None:
        self.prior, self._coefficients = prior, None

    @property
    def points(self) -> dict[Variant, tuple[Features, float]]:
        """Features and mean of the measurements of each variant, in the order of the first ones."""
        return {v: (self._features[v], fmean(values)) for v, values in self._measured.items()}

    @property
    def coefficients(self) -> Sequence[float]:
        if self._coefficients is None:
            self._coefficients = _fit_points([*self.points.values()], self.prior)
        return self._coefficients

    def predict(self, variant: Variant) -> float:
        return apply(self.coefficients, self._features[variant])

    def checks(self) -> dict[str, dict[Variant, float]]:
        """Predictions of every variant by fits that have not seen it, by what they were made on.
        That is nothing but the prior; the variants that ran earlier, as in a first run; all
        variants of other modes and layer sets; and all other variants."""
        points = [*self.points.values()]
        kinds = [(variant.mode, variant.layers) for variant in self._measured]
        ways: dict[str, Callable[[int, int], bool]] = {
            "by the prior": lambda _one, _other: False,
            "as they ran": lambda one, other: other < one,
            "kind left out": lambda one, other: kinds[other] != kinds[one],
            "one left out": lambda one, other: other != one,
        }

        def predicted(one: int, sees: Callable[[int, int], bool]) -> float:
            seen = [point for other, point in enumerate(points) if sees(one, other)]
            return apply(_fit_points(seen, self.prior), points[one][0])

        return {
            way: {variant: predicted(one, sees) for one, variant in enumerate(self._measured)}
            for way, sees in ways.items()
        }


def _fit_points(points: Sequence[tuple[Features, float]], prior: Prior) -> Features:
    return fit([x for x, _ in points], [y for _, y in points], prior)


def errors(predicted: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    """The share of predictions within `WITHIN`, and quantiles of the absolute relative errors."""
    relative = np.abs(np.divide(predicted, measured) - 1)
    return {
        "within_10_percent": float(np.mean(relative <= WITHIN)),
        "error_median": float(np.median(relative)),
        "error_90": float(np.quantile(relative, 0.9)),
        "error_max": float(relative.max()),
    }
