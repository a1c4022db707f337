"""Metrics of predictions: the scores by scikit-learn and scipy, and a number for each example whose
mean is the score.

The numbers are the score plus each example's influence on it (`bench.stats.influence`), so that all
comparisons can be paired over examples, whatever the metric. For an accuracy they are 1 or 0, right
or wrong.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.plan.metrics import metric_of, metrics_for
from bench.results.outcomes import Array, Outcome, Values
from bench.results.overall import score_ends
from bench.stats import influence
from bench.stats.intervals import Interval, around_correlation, spread
from minbert.data.metrics import pearson

Floats = NDArray[np.float64]


ScoreOf = Callable[[Array, Array], float]
"""From labels and predictions [N], or labels of 0 and 1 [N, C], to the score."""
Influence = Callable[[Array, Array], Floats]
"""From the same to each example's influence on it [N]."""


def _sklearn(name: str, **options: Any) -> ScoreOf:
    """A metric of scikit-learn, which is imported on first use."""

    def score(labels: Array, predicted: Array) -> float:
        from sklearn import metrics

        return float(getattr(metrics, name)(labels, predicted, **options))

    return score


def _balanced_accuracy(labels: Array, predicted: Array) -> float:
    return _sklearn("recall_score", labels=np.unique(labels), average="macro")(labels, predicted)


def _f1(average: str) -> ScoreOf:
    return _sklearn("f1_score", average=average, zero_division=0)


def _pearson(labels: Array, predicted: Array) -> float:
    return pearson(predicted.astype(np.float64), labels.astype(np.float64)) or 0.0


def _spearman(labels: Array, predicted: Array) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(predicted, labels).statistic)


_CLASSES: Final[Mapping[str, tuple[ScoreOf, Influence]]] = {
    "balanced_accuracy": (_balanced_accuracy, influence.balanced_accuracy),
    "macro_f1": (_f1("macro"), influence.macro_f1),
    "weighted_f1": (_f1("weighted"), influence.weighted_f1),
    "mcc": (_sklearn("matthews_corrcoef"), influence.mcc),
}
_LABELS: Final[Mapping[str, tuple[ScoreOf, Influence]]] = {
    "micro_f1": (_f1("micro"), influence.label_micro_f1),
    "macro_f1": (_f1("macro"), influence.label_macro_f1),
}
_RANKED: Final = {
    "auroc": (_sklearn("roc_auc_score"), influence.auroc),
    "average_precision": (_sklearn("average_precision_score"), influence.average_precision),
}
_NUMBERS: Final = {
    "pearson": (_pearson, influence.pearson),
    "spearman": (_spearman, influence.spearman),
    "r2": (_sklearn("r2_score"), influence.r2),
    "rmse": (_sklearn("root_mean_squared_error"), influence.rmse),
}
_IN_UNIT: Final = ("r2", "rmse")
"""Metrics that need predictions in the unit of the labels."""


def numbers(metric: str, outcome: Outcome) -> Values:
    """A number for each example [N], with the score as their mean. ValueError if the metric is not
    that of the outcome's problem, can't be computed from what is stored, or is not defined, as a
    correlation of constants is not."""
    labels, predicted = outcome.labels, outcome.predicted
    if metric == "accuracy" and outcome.has_classes:
        right: Values = (predicted if labels is None else predicted == labels).astype(np.float64)
        return right
    if labels is None:
        raise ValueError("only right and wrong are stored")
    if outcome.has_classes and metric in _RANKED:
        return _ranked(metric, outcome.logits, labels)
    if outcome.has_numbers and metric in _NUMBERS:
        if metric in _IN_UNIT and not outcome.in_unit:
            raise ValueError("the predictions are not in the unit of the labels")
        of_numbers, influences_of = _NUMBERS[metric]
        x, y = predicted.astype(np.float64), labels.astype(np.float64)
        return influences_of(x, y) + of_numbers(y, x)
    functions = _CLASSES if outcome.has_classes else _LABELS
    if metric not in functions or outcome.has_numbers:
        raise ValueError(f"{metric} is not defined for these predictions")
    score, influences = functions[metric]
    return influences(labels, predicted) + score(labels, predicted)


def _ranked(metric: str, logits: Array | None, labels: Array) -> Values:
    """The mean over the classes that occur, each against the rest; of two, that of the second."""
    if logits is None:
        raise ValueError("the logits are not stored")
    from scipy.special import log_softmax

    score, influences = _RANKED[metric]
    values = logits.astype(np.float64)
    if values.shape[1] <= 2:
        chosen = {1: values[:, -1] - (values[:, 0] if values.shape[1] == 2 else 0)}
    else:
        logarithms = log_softmax(values, axis=1)
        chosen = {int(label): logarithms[:, label] for label in np.unique(labels)}
    of_classes = [
        influences(of_class, labels == label) + score(labels == label, of_class)
        for label, of_class in chosen.items()
    ]
    return np.asarray(np.mean(of_classes, axis=0))


def probabilities(logits: Array) -> Floats:
    """The probability of each class [N, C], or with one logit of both classes, [N, 2]."""
    values = logits.astype(np.float64)
    if values.shape[1] == 1:
        values = np.concatenate([-values / 2, values / 2], axis=1)
    from scipy.special import softmax

    return np.asarray(softmax(values, axis=1))


Score = tuple[float, float | None, float | None] | None
"""A value with both ends of its 95% interval; None: not defined."""


def every_score(problem: str, outcome: Outcome) -> dict[str, Score]:
    """The scores of predictions by all metrics of their problem."""
    scores: dict[str, Score] = {}
    for metric in metrics_for(problem):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of scikit-learn, on a single class
                found = score_of(metric, [numbers(metric, outcome)])
            ends = (found.value, found.low, found.high)
            is_finite = all(end is None or math.isfinite(end) for end in ends)
            scores[metric] = ends if is_finite else None
        except ValueError:
            scores[metric] = None
    return scores


def score_of(metric: str, values: Sequence[Values]) -> Interval:
    """A score with its 95% interval, from the numbers of one or several seeds.

    For one seed it is over examples: Wilson's of an accuracy, else by Student's t; for several
    seeds over seeds and examples. Of a correlation it is on the scale of Fisher's z. Ends stay
    within the metric's bounds. ValueError if seeds have other numbers of examples.
    """
    known = metric_of(metric)
    score = float(np.mean(values))
    if metric == "accuracy" and len(values) == 1:
        return Interval(score, *score_ends(metric, score, len(values[0])))
    over = spread(np.stack(values))
    if metric in ("pearson", "spearman"):
        return Interval(score, *around_correlation(over))
    low, high = over.interval().ends() or (score, score)
    return Interval(score, max(low, known.lowest), min(high, 1.0) if known.bounded else high)
