"""Metrics: where scikit-learn and scipy have no such function, the value, and of each the influence
of every example, from formulas, for whole arrays at once.

All functions take labels and predictions: classes [N], numbers [N], 0 and 1 for each label [N, C],
or tags of words [N, W], whose examples are texts; of a ranking, whether examples are of the class
[N], and their scores [N].
bench/plan/metrics.toml names the functions, with options.

The influence of example i is N times the derivative of the metric with respect to the weight of
that example, where all N weights are 1 (the infinitesimal jackknife; Jaeckel 1972, Efron 1982).
Influences sum to 0, and their variance over N is that of the metric to first order. Pure.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.stats.intervals import Floats
from minbert.data import metrics as dev_metrics
from minbert.data import words

Array = NDArray[Any]


def balanced_accuracy(labels: Array, predicted: Array) -> float:
    from sklearn.metrics import recall_score

    return float(recall_score(labels, predicted, labels=np.unique(labels), average="macro"))


def pearson(labels: Array, predicted: Array) -> float:
    x, y = predicted.astype(np.float64), labels.astype(np.float64)
    return dev_metrics.pearson(x, y) or 0.0


def spearman(labels: Array, predicted: Array) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(predicted, labels).statistic)


class _Classes:
    """The K classes that occur in labels or predictions [N], with the numbers of examples of each
    that are `true`, `predicted` or both, `hits` [K]; and by example the places of its class and of
    its prediction among them, `at` and `guess`, and whether it is `right` [N]."""

    def __init__(self, labels: Array, predicted: Array) -> None:
        classes, places = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
        self.at, self.guess = np.split(places.ravel(), 2)
        self.right = self.at == self.guess
        self.true, self.predicted, self.hits = (
            np.bincount(chosen, minlength=len(classes)).astype(np.float64)
            for chosen in (self.at, self.guess, self.at[self.right])
        )

    @property
    def f1(self) -> Floats:
        return np.asarray(2 * self.hits / (self.true + self.predicted))

    def of_f1(self, weights: Floats) -> Floats:
        """For each example N times the derivative of Σ weight [K] · F1 by its weight."""
        sizes = self.true + self.predicted
        by_hit, by_size = 2 * weights / sizes, weights * self.f1 / sizes
        change = self.right * by_hit[self.at] - by_size[self.at] - by_size[self.guess]
        return np.asarray(len(self.at) * change)


def balanced_accuracy_influence(labels: Array, predicted: Array) -> Floats:
    """Of the mean recall over the classes that occur in the labels."""
    counts = _Classes(labels, predicted)
    recall = counts.hits / np.maximum(counts.true, 1)
    change = (counts.right - recall[counts.at]) / counts.true[counts.at]
    return np.asarray(len(labels) / (counts.true > 0).sum() * change)


def macro_f1_influence(labels: Array, predicted: Array) -> Floats:
    """Of the mean F1 over the classes that occur in labels or predictions, or over all labels."""
    if labels.ndim == 2:
        return _macro_f1_of_labels(labels, predicted)
    counts = _Classes(labels, predicted)
    return counts.of_f1(np.full(len(counts.true), 1 / len(counts.true)))


def weighted_f1_influence(labels: Array, predicted: Array) -> Floats:
    """Of the mean F1 over the classes, each weighted by its number of examples."""
    counts = _Classes(labels, predicted)
    shares = counts.true / len(labels)
    return counts.f1[counts.at] - float(shares @ counts.f1) + counts.of_f1(shares)


def mcc_influence(labels: Array, predicted: Array) -> Floats:
    """Of Matthews' correlation coefficient of several classes (Gorodkin 2004); 0 where labels or
    predictions are all the same and the coefficient is not defined."""
    counts, total = _Classes(labels, predicted), float(len(labels))
    right = counts.hits.sum()
    joint = right * total - counts.true @ counts.predicted
    of_true, of_guess = (total**2 - sizes @ sizes for sizes in (counts.true, counts.predicted))
    if of_true == 0 or of_guess == 0:
        return np.zeros(len(labels))
    d_joint = counts.right * total + right - counts.predicted[counts.at] - counts.true[counts.guess]
    d_true = (total - counts.true[counts.at]) / of_true
    d_guess = (total - counts.predicted[counts.guess]) / of_guess
    return np.asarray(total * (d_joint - joint * (d_true + d_guess)) / np.sqrt(of_true * of_guess))


def auroc_influence(positive: NDArray[np.bool_], scores: Floats) -> Floats:
    """Of the area under the ROC curve of scores [N]: the placements of DeLong et al. (1988).
    ValueError unless there are positive and negative examples."""
    positives, negatives = np.sort(scores[positive]), np.sort(scores[~positive])
    if not len(positives) or not len(negatives):
        raise ValueError("a class has no examples")
    influence = np.empty(len(scores))
    influence[positive] = _share_below(negatives, scores[positive])
    influence[~positive] = 1 - _share_below(positives, scores[~positive])
    for side, number in ((positive, len(positives)), (~positive, len(negatives))):
        area = influence[side].mean()
        influence[side] = (influence[side] - area) * len(scores) / number
    return influence


def _share_below(ordered: Floats, values: Floats) -> Floats:
    """For each value the share of some ordered numbers below it, equal ones counted half."""
    sides = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return np.asarray(sum(sides) / (2 * len(ordered)))


def average_precision_influence(positive: NDArray[np.bool_], scores: Floats) -> Floats:
    """Of average precision, the mean precision at the scores [N] of the positive examples;
    ValueError without one."""
    if not positive.any():
        raise ValueError("a class has no examples")
    thresholds, places = np.unique(scores, return_inverse=True)
    places = places.ravel()
    number = len(thresholds)
    here = np.bincount(places, positive, number)
    above = np.cumsum(here[::-1])[::-1]  # positive examples at or above each threshold
    chosen = np.cumsum(np.bincount(places, minlength=number)[::-1])[::-1]
    precision = above / chosen
    # An example counts in the precision at every threshold up to its own score.
    by_positive = np.cumsum(here * (chosen - above) / chosen**2)
    by_negative = np.cumsum(here * above / chosen**2)
    total = here.sum()
    mean = float(here @ precision) / total
    change = np.where(
        positive, (precision - mean)[places] + by_positive[places], -by_negative[places]
    )
    return np.asarray(len(scores) / total * change)


def pearson_influence(labels: Floats, predicted: Floats) -> Floats:
    """Of Pearson's correlation (Hampel 1974); ValueError if numbers are all the same."""
    x, y = _standard(predicted), _standard(labels)
    return np.asarray(x * y - float((x * y).mean()) * (x * x + y * y) / 2)


def spearman_influence(labels: Floats, predicted: Floats) -> Floats:
    """Of Spearman's correlation: Pearson's of the ranks, where equal numbers have their mean rank.
    An example counts by its own ranks, and by what it adds to the ranks of the larger numbers.
    ValueError if numbers are all the same."""
    from scipy.stats import rankdata

    one, two = rankdata(predicted), rankdata(labels)
    u, v = _standard(one), _standard(two)
    rho = float((u * v).mean())
    influence = pearson_influence(two, one)
    for values, own, other, std in ((predicted, u, v, one.std()), (labels, v, u, two.std())):
        influence += _carried(values, (other - rho * own) / std)
    return np.asarray(influence)


def _carried(values: Floats, slopes: Floats) -> Floats:
    """For each number the sum of the slopes of the larger numbers, equal ones counted half."""
    distinct, places = np.unique(values, return_inverse=True)
    places = places.ravel()
    sums = np.bincount(places, slopes, len(distinct))
    return np.asarray((np.cumsum(sums[::-1])[::-1] - sums / 2)[places])


def _standard(values: Floats) -> Floats:
    std = values.std()
    if not values.size or values.max() == values.min() or not std > 0:
        raise ValueError("a constant has no correlation")
    return np.asarray((values - values.mean()) / std)


def r2_influence(labels: Floats, predicted: Floats) -> Floats:
    """Of the coefficient of determination; ValueError if labels are all the same."""
    errors, spread = (predicted - labels) ** 2, (labels - labels.mean()) ** 2
    if not spread.mean() > 0:
        raise ValueError("labels that are all the same have no variance")
    unexplained = errors.mean() / spread.mean()
    return np.asarray((unexplained * spread - errors) / spread.mean())


def rmse_influence(labels: Floats, predicted: Floats) -> Floats:
    """Of the root of the mean squared error, in the unit of the labels."""
    errors = (predicted - labels) ** 2
    root = np.sqrt(errors.mean())
    if root == 0:
        return np.zeros(len(errors))
    return np.asarray((errors - errors.mean()) / (2 * root))


def micro_f1_influence(labels: Array, predicted: Array) -> Floats:
    """Of the F1 over all labels [N, C] of 0 or 1 together: that of one label, on N C examples."""
    influence = _macro_f1_of_labels(labels.reshape(-1, 1), predicted.reshape(-1, 1))
    return np.asarray(influence.reshape(labels.shape).mean(axis=1))


def _macro_f1_of_labels(labels: Array, predicted: Array) -> Floats:
    """Of the mean F1 over the C labels [N, C] of 0 or 1; a label that neither occurs nor is
    predicted counts as 0."""
    true, guess = labels.astype(np.float64), predicted.astype(np.float64)
    return _mean_f1_influence(true * guess, true + guess)


def _mean_f1_influence(hits: Floats, sizes: Floats) -> Floats:
    """Of the mean F1 over C labels, given by example the hits of each, and how often it is true or
    predicted, [N, C]."""
    known = np.maximum(sizes.sum(axis=0), 1)
    f1 = 2 * hits.sum(axis=0) / known
    change = hits @ (2 / known) - sizes @ (f1 / known)
    return np.asarray(len(hits) / hits.shape[1] * change)


Counts = tuple[Floats, Floats]  # by text two numbers, the quotient of whose sums is the metric


def _entity_counts(
    labels: Array, predicted: Array, among: Sequence[int] = (1, 2), *, any_start: bool = False
) -> Counts:
    """Hits among entities that are guessed (1) or true (2); in F1 each counts in both."""
    counts = words.entity_counts(labels, predicted, any_start=any_start).astype(np.float64)
    return len(among) * counts[:, 0], counts[:, among].sum(axis=1)


def entity_share(labels: Array, predicted: Array, **options: Any) -> float:
    """The share of entities that are hits; options say which, as those of `_entity_counts`."""
    hits, counted = (float(each.sum()) for each in _entity_counts(labels, predicted, **options))
    return hits / counted if counted else 0.0


def entity_influence(labels: Array, predicted: Array, **options: Any) -> Floats:
    """Of that share; among both kinds of entities it is their F1."""
    return _quotient_influence(*_entity_counts(labels, predicted, **options))


def word_accuracy_influence(labels: Array, predicted: Array) -> Floats:
    """Of the share of words [N, W] whose tag is predicted right."""
    is_word = labels >= 0
    right = (labels == predicted) & is_word
    return _quotient_influence(right.sum(axis=1) * 1.0, is_word.sum(axis=1) * 1.0)


def _quotient_influence(part: Floats, whole: Floats) -> Floats:
    """Of the quotient of the sums of two numbers by text [N]."""
    total = max(float(whole.sum()), 1.0)
    return np.asarray(len(part) / total * (part - part.sum() / total * whole))


def _type_counts(labels: Array, predicted: Array) -> Counts:
    """Hits, and how many are true or predicted, of each type that occurs, [N, K]."""
    kinds = range((max(labels.max(initial=0), predicted.max(initial=0)) + 1) // 2)
    counts = [words.entity_counts(labels, predicted, kind=kind).T for kind in kinds]
    known = [
        (hits, guessed + true) for hits, guessed, true in counts if guessed.any() or true.any()
    ]
    hits, sizes = (np.stack(each, axis=1) * 1.0 for each in zip(*known, strict=True))
    return hits, sizes


def entity_macro_f1(labels: Array, predicted: Array) -> float:
    """The mean F1 over the types of entities; ValueError without an entity."""
    hits, sizes = (each.sum(axis=0) for each in _type_counts(labels, predicted))
    return float(np.mean(2 * hits / sizes))


def entity_macro_f1_influence(labels: Array, predicted: Array) -> Floats:
    return _mean_f1_influence(*_type_counts(labels, predicted))
