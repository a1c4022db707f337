"""Non-negative coefficients from few measurements and a prior. Plain numbers in and out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

NOISE: Final = 0.03
"""The relative error of a measurement that no model explains."""


@dataclass(frozen=True)
class Prior:
    """Expected coefficients before anything is measured, and how far they may be off.

    With `rates`, they are known only up to a common factor, which is fitted as the median of the
    measurements' ratios to the prior.
    """

    values: tuple[float, ...]
    spread: tuple[float, ...]
    rates: bool = False


def fit(
    design: Sequence[Sequence[float]], measured: Sequence[float], prior: Prior
) -> tuple[float, ...]:
    """Non-negative coefficients of a linear model.

    They minimise the squared relative errors, in units of `NOISE`, plus the squared distances from
    the prior, in units of its spread: ridge regression about the prior. So one measurement moves
    them a little, and many determine those that they identify.

    Args:
        design: features of each measurement, [n, k].
        measured: [n], above 0.
        prior: of k coefficients; its values are returned where nothing is measured.
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
    """The value that a linear model gives."""
    return sum(c * f for c, f in zip(coefficients, features, strict=True))
