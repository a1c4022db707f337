"""Errors of predictions for settings that the fit has not seen. Plain numbers in and out."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.forecast.costs import Points, Variant
from bench.forecast.fit import Prior, apply, held_out, one_by_one

FOLDS: Final = 5
WITHIN: Final = 0.1
"""The relative error up to which a prediction counts as right."""


@dataclass(frozen=True)
class Check:
    """Predicted and measured values by variant; `way` names what the fit was made on."""

    way: str
    predicted: dict[Variant, float]
    measured: dict[Variant, float]

    @property
    def errors(self) -> dict[Variant, float]:
        """Relative errors: (predicted - measured) / measured."""
        return {v: self.predicted[v] / measured - 1 for v, measured in self.measured.items()}

    @property
    def within(self) -> float:
        """The share of predictions with an error of at most `WITHIN`."""
        return float(np.mean(np.abs(list(self.errors.values())) <= WITHIN))

    def quantile(self, share: float) -> float:
        """A quantile of the absolute errors."""
        return float(np.quantile(np.abs(list(self.errors.values())), share))


def checks(points: Points, prior: Prior) -> list[Check]:
    """Predictions of every variant by fits that have not seen it.

    They are made by the prior alone; by a fit on the variants that ran earlier, as in a first run;
    on all variants of other modes and layer sets; on four of five folds; and on all other variants.
    """
    variants = list(points)
    design = [features for features, _ in points.values()]
    measured = [value for _, value in points.values()]
    kinds = [(variant.mode, variant.layers) for variant in variants]
    predicted = {
        "by the prior": [apply(prior.values, features) for features in design],
        "as they ran": one_by_one(design, measured, prior),
        "kind left out": held_out(design, measured, prior, kinds),
        f"{FOLDS} folds": held_out(design, measured, prior, _folds(len(variants))),
        "one left out": held_out(design, measured, prior, range(len(variants))),
    }
    truth = dict(zip(variants, measured, strict=True))
    return [
        Check(way, dict(zip(variants, values, strict=True)), truth)
        for way, values in predicted.items()
    ]


def _folds(count: int, seed: int = 0) -> Sequence[int]:
    folds = [index % FOLDS for index in range(count)]
    random.Random(seed).shuffle(folds)  # noqa: S311
    return folds
