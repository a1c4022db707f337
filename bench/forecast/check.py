"""Errors of predictions for settings that the fit has not seen. Plain numbers in and out."""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from bench.forecast.costs import Variant
from bench.forecast.fit import Prior, apply, fit
from bench.forecast.forecast import Points

WITHIN: Final = 0.1
"""The relative error up to which a prediction counts as right."""


def checks(points: Points, prior: Prior) -> dict[str, dict[Variant, float]]:
    """Predictions of every variant by fits that have not seen it, by what they were made on.

    That is nothing but the prior; the variants that ran earlier, as in a first run; all variants of
    other modes and layer sets; and all other variants.
    """
    variants, values = list(points), list(points.values())
    kinds = [(variant.mode, variant.layers) for variant in variants]
    ways: dict[str, Callable[[int, int], bool]] = {
        "by the prior": lambda _one, _other: False,
        "as they ran": lambda one, other: other < one,
        "kind left out": lambda one, other: kinds[other] != kinds[one],
        "one left out": lambda one, other: other != one,
    }
    predicted: dict[str, dict[Variant, float]] = {way: {} for way in ways}
    for way, sees in ways.items():
        for one, variant in enumerate(variants):
            seen = [point for other, point in enumerate(values) if sees(one, other)]
            coefficients = fit([x for x, _ in seen], [y for _, y in seen], prior)
            predicted[way][variant] = apply(coefficients, values[one][0])
    return predicted


def errors(points: Points, predicted: Mapping[Variant, float]) -> dict[str, float]:
    """The share of predictions within `WITHIN`, and quantiles of the absolute relative errors."""
    relative = np.array([abs(predicted[v] / value - 1) for v, (_, value) in points.items()])
    return {
        "within_10_percent": float(np.mean(relative <= WITHIN)),
        "error_median": float(np.median(relative)),
        "error_90": float(np.quantile(relative, 0.9)),
        "error_max": float(relative.max()),
    }
