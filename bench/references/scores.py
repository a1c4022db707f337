"""The scores of predictions by every metric of a problem, with 95% intervals over dev examples.

Each metric is a function of weights [B, N] of the dev examples: all 1 for the score itself, and the
counts of a bootstrap for its interval. Accuracy has Wilson's interval and Pearson's correlation
Fisher's instead.
"""

import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.stats.intervals import fisher, wilson
from minbert.data.metrics import constant

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""From weights [B, N] to B values, nan where undefined."""
Score = tuple[float, float | None, float | None] | None
"""A value with both ends of its interval; None: not defined."""

_RESAMPLES: Final = 400
_SEED: Final = 0
_ENDS: Final = (0.025, 0.975)
_MOST_RANKED: Final = 50
"""Classes above which areas under curves have no interval, which would take minutes."""


def scores(kind: str, predictions: Floats, labels: NDArray[Any]) -> dict[str, Score]:
    """The scores by name of metric.

    Args:
        kind: a task's kind, without parts.
        predictions: [N, C], as of `bench.references.linear`.
        labels: [N], or [N, C] of 0 and 1 for several labels.
    """
    statistics = _STATISTICS[kind](predictions, labels)
    number = len(labels)
    rng = np.random.default_rng(_SEED)
    counts = rng.multinomial(number, np.full(number, 1 / number), _RESAMPLES).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of resamples that are all undefined
        return {name: _score(name, each, counts) for name, each in statistics.items()}


def _score(name: str, statistic: Statistic, counts: Floats) -> Score:
    number = counts.shape[1]
    value = float(statistic(np.ones((1, number)))[0])
    if not np.isfinite(value):
        return None
    if name == "accuracy":
        return value, *wilson(round(value * number), number)
    if name == "pearson":
        return value, *fisher(value, number)
    low, high = np.nanquantile(statistic(counts), _ENDS)
    return (value, float(low), float(high)) if np.isfinite(low) else (value, None, None)


def _of_classes(predictions: Floats, labels: NDArray[Any]) -> dict[str, Statistic]:
    classes = np.arange(predictions.shape[1])
    true = (labels[:, None] == classes).astype(np.float64)  # [N, C]
    guessed = (predictions.argmax(axis=1)[:, None] == classes).astype(np.float64)
    ranked = [1] if len(classes) == 2 else [c for c in classes if 0 < true[:, c].sum() < len(true)]

    def mcc(weights: Floats) -> Floats:
        hits, actual, predicted = _counts(weights, true, guessed)
        total = weights.sum(axis=1)
        covariance = hits.sum(axis=1) * total - (actual * predicted).sum(axis=1)
        spread = (total**2 - (predicted**2).sum(axis=1)) * (total**2 - (actual**2).sum(axis=1))
        values: Floats = np.where(spread > 0, covariance / np.sqrt(spread), 0.0)
        return values

    def f1(weights: Floats, *, weighted: bool) -> Floats:
        hits, actual, predicted = _counts(weights, true, guessed)
        present = actual + predicted > 0
        each = _f1(hits, actual, predicted)
        share = actual if weighted else present
        values: Floats = (each * share).sum(axis=1) / share.sum(axis=1)
        return values

    def recall(weights: Floats) -> Floats:
        hits, actual, _ = _counts(weights, true, guessed)
        return np.asarray(np.nanmean(hits / actual, axis=1))

    def over_classes(of_class: Callable[[Floats, Floats, Floats], Floats]) -> Statistic:
        def mean(weights: Floats) -> Floats:
            if not ranked or (len(weights) > 1 and len(ranked) > _MOST_RANKED):
                return np.full(len(weights), np.nan)
            each = [of_class(weights, predictions[:, c], true[:, c]) for c in ranked]
            return np.asarray(np.mean(each, axis=0))

        return mean

    return {
        "accuracy": lambda weights: (
            (weights * (true * guessed).sum(axis=1)).sum(axis=1) / weights.sum(axis=1)
        ),
        "balanced_accuracy": recall,
        "macro_f1": lambda weights: f1(weights, weighted=False),
        "weighted_f1": lambda weights: f1(weights, weighted=True),
        "mcc": mcc,
        "auroc": over_classes(_auroc),
        "average_precision": over_classes(_average_precision),
    }


def _of_labels(predictions: Floats, labels: NDArray[Any]) -> dict[str, Statistic]:
    true, guessed = labels.astype(np.float64), (predictions > 0).astype(np.float64)

    def micro(weights: Floats) -> Floats:
        hits, actual, predicted = (each.sum(axis=1) for each in _counts(weights, true, guessed))
        return _f1(hits, actual, predicted)

    def macro(weights: Floats) -> Floats:
        hits, actual, predicted = _counts(weights, true, guessed)
        return np.asarray(_f1(hits, actual, predicted).mean(axis=1))

    return {"micro_f1": micro, "macro_f1": macro}


def _of_numbers(predictions: Floats, labels: NDArray[Any]) -> dict[str, Statistic]:
    from scipy.stats import rankdata

    x, y = predictions[:, 0], labels.astype(np.float64)

    def r2(weights: Floats) -> Floats:
        error = (weights * (y - x) ** 2).sum(axis=1)
        values: Floats = 1 - error / (weights * (y - _mean(weights, y)) ** 2).sum(axis=1)
        return values

    return {
        "pearson": lambda weights: _correlation(weights, x, y),
        "spearman": lambda weights: _correlation(weights, rankdata(x), rankdata(y)),
        "r2": r2 if not constant(y) else lambda weights: np.full(len(weights), np.nan),
        "rmse": lambda weights: np.sqrt(_mean(weights, (y - x) ** 2)[:, 0]),
    }


_STATISTICS: Final = {
    "classification": _of_classes,
    "multi_label": _of_labels,
    "regression": _of_numbers,
}


def _counts(weights: Floats, true: Floats, guessed: Floats) -> tuple[Floats, Floats, Floats]:
    """Hits, examples and predictions of each class, [B, C] each."""
    return weights @ (true * guessed), weights @ true, weights @ guessed


def _f1(hits: Floats, actual: Floats, predicted: Floats) -> Floats:
    """F1 by class; 0 for a class that is neither there nor predicted."""
    return np.asarray(np.where(actual + predicted > 0, 2 * hits / (actual + predicted), 0.0))


def _mean(weights: Floats, values: Floats) -> Floats:
    """The weighted means, [B, 1]."""
    sums: Floats = (weights * values).sum(axis=1, keepdims=True)
    return np.asarray(sums / weights.sum(axis=1, keepdims=True))


def _correlation(weights: Floats, x: Floats, y: Floats) -> Floats:
    if constant(x) or constant(y):
        return np.full(len(weights), np.nan)
    x, y = x - _mean(weights, x), y - _mean(weights, y)  # [B, N]
    products = (weights * x * y).sum(axis=1)
    correlations: Floats = products / np.sqrt(
        (weights * x**2).sum(axis=1) * (weights * y**2).sum(axis=1)
    )
    return correlations


def _by_threshold(weights: Floats, scores: Floats, true: Floats) -> tuple[Floats, Floats]:
    """True and false positives at each threshold, from the highest down, [B, T] each."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(weights[:, order] * true[order], axis=1)[:, last]
    false = np.cumsum(weights[:, order] * (1 - true[order]), axis=1)[:, last]
    return hits, false


def _auroc(weights: Floats, scores: Floats, true: Floats) -> Floats:
    hits, false = _by_threshold(weights, scores, true)
    steps = np.diff(false, axis=1, prepend=0)
    heights = hits - np.diff(hits, axis=1, prepend=0) / 2
    areas: Floats = (steps * heights).sum(axis=1) / (hits[:, -1] * false[:, -1])
    return areas


def _average_precision(weights: Floats, scores: Floats, true: Floats) -> Floats:
    hits, false = _by_threshold(weights, scores, true)
    precision = np.divide(hits, hits + false, out=np.zeros_like(hits), where=hits + false > 0)
    steps = np.diff(hits, axis=1, prepend=0)
    areas: Floats = (steps * precision).sum(axis=1) / hits[:, -1]
    return areas
