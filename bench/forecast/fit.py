"""Non-negative coefficients from few measurements and a prior. Plain numbers in and out."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

NOISE: Final = 0.03
"""What a measurement is off by, relative to itself, as far as no model can tell."""


@dataclass(frozen=True)
class Prior:
    """What coefficients are thought to be before anything is measured, and how far they may be off.

    Where they are `rates`, they are known only up to a common factor, which the median of the
    measurements gives.
    """

    values: tuple[float, ...]
    spread: tuple[float, ...]
    rates: bool = False


def fit(
    design: Sequence[Sequence[float]], measured: Sequence[float], prior: Prior
) -> tuple[float, ...]:
    """Coefficients of a linear model that are at least 0.

    They minimise the squared relative errors, in units of `NOISE`, plus the squared distances from
    the prior, in units of its spread: ridge regression about the prior. So one measurement moves
    them a little, and many determine those that they can tell apart.

    Args:
        design: features of each measurement, [n, k].
        measured: [n], above 0.
        prior: of k coefficients; they are returned where nothing is measured.
    """
    if not len(measured):
        return prior.values
    from scipy.optimize import nnls

    x, y = np.asarray(design, dtype=float), np.asarray(measured, dtype=float)
    if prior.rates:
        factor = float(np.median(y / (x @ np.asarray(prior.values))))
        prior = Prior(
            tuple(factor * value for value in prior.values),
            tuple(factor * value for value in prior.spread),
        )
    values, spread = np.asarray(prior.values), np.asarray(prior.spread)
    rows = np.concatenate([x / y[:, None] / NOISE, np.diag(1 / spread)])
    targets = np.concatenate([np.full(len(y), 1 / NOISE), values / spread])
    scale = np.linalg.norm(rows, axis=0)  # features differ by many orders of magnitude
    found, _ = nnls(rows / scale, targets)
    return tuple(float(value) for value in found / scale)


def apply(coefficients: Sequence[float], features: Sequence[float]) -> float:
    """What a model says."""
    return sum(c * f for c, f in zip(coefficients, features, strict=True))


def held_out(
    design: Sequence[Sequence[float]],
    measured: Sequence[float],
    prior: Prior,
    folds: Sequence[Hashable],
) -> list[float]:
    """What is said of each measurement by a fit that has seen only those of other folds."""
    told = {}
    for fold in set(folds):
        seen = [i for i, of in enumerate(folds) if of != fold]
        told[fold] = fit([design[i] for i in seen], [measured[i] for i in seen], prior)
    return [apply(told[fold], design[i]) for i, fold in enumerate(folds)]


def one_by_one(
    design: Sequence[Sequence[float]], measured: Sequence[float], prior: Prior
) -> list[float]:
    """What is said of each measurement by a fit that has seen only those before it."""
    return [
        apply(fit(design[:i], measured[:i], prior), features) for i, features in enumerate(design)
    ]
