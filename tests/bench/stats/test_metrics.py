"""Influences against numerical derivatives of scikit-learn's metrics, and against a bootstrap."""

from functools import partial

import numpy as np
import pytest
from sklearn import metrics as library

from bench.stats import metrics

N = 60


def classes():
    """Labels of unequal frequency, and predictions that are better than chance."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (2, N)).min(axis=0)
    return labels, np.where(rng.random(N) < 0.4, rng.integers(0, 4, N), labels)


def lacking():
    """Classes that labels or predictions lack."""
    return np.array([0, 0, 2, 2, 5]), np.array([0, 7, 2, 0, 5])


def ranked():
    """Whether examples are of a class, and scores, several of which are equal."""
    rng = np.random.default_rng(0)
    labels = rng.random(N) < 0.3
    return labels, (rng.normal(size=N) + labels).round(1)


def numbers():
    """Numbers as labels, and predictions, each with equal ones among them."""
    rng = np.random.default_rng(0)
    labels = rng.normal(3.0, 2.0, N)
    return labels.round(1), (0.6 * labels + rng.normal(size=N)).round(1)


def several():
    """Labels [N, 5], of which the last never occurs, and predictions."""
    rng = np.random.default_rng(0)
    labels = (rng.random((N, 5)) < [0.5, 0.3, 0.2, 0.05, 0.0]).astype(np.int8)
    return labels, np.where(rng.random((N, 5)) < [0.2, 0.2, 0.1, 0.1, 0.0], 1 - labels, labels)


def pearson(labels, predicted, sample_weight):
    of = np.cov(labels, predicted, aweights=sample_weight)
    return of[0, 1] / np.sqrt(of[0, 0] * of[1, 1])


def spearman(labels, predicted, sample_weight):
    each = (of[:, None] for of in (labels, predicted))
    ranks = [((of > of.T) + 1.0 * (of >= of.T)) @ sample_weight for of in each]
    return pearson(*ranks, sample_weight)


def f1(average):
    return partial(library.f1_score, average=average, zero_division=0)


def derivative(metric, labels, predicted):
    """N times the derivative of a metric by each example's weight, from finite differences."""
    count, step = len(labels), 1e-5

    def scores(sign):
        weights = np.ones((count, count)) + sign * step * np.eye(count)
        return np.array([metric(labels, predicted, sample_weight=own) for own in weights])

    return count * (scores(1) - scores(-1)) / (2 * step)


CASES = [
    (metrics.balanced_accuracy_influence, library.balanced_accuracy_score, classes),
    (metrics.macro_f1_influence, f1("macro"), classes),
    (metrics.weighted_f1_influence, f1("weighted"), classes),
    (metrics.mcc_influence, library.matthews_corrcoef, classes),
    (metrics.auroc_influence, library.roc_auc_score, ranked),
    (metrics.average_precision_influence, library.average_precision_score, ranked),
    (metrics.pearson_influence, pearson, numbers),
    (metrics.spearman_influence, spearman, numbers),
    (metrics.r2_influence, library.r2_score, numbers),
    (metrics.rmse_influence, library.root_mean_squared_error, numbers),
    (metrics.micro_f1_influence, f1("micro"), several),
    (metrics.macro_f1_influence, f1("macro"), several),
]
CASES += [(*case[:2], lacking) for case in CASES[:4]]


@pytest.mark.parametrize(("of", "metric", "draw"), CASES)
def test_an_influence_is_the_derivative_by_the_examples_weight(of, metric, draw):
    labels, predicted = draw()
    influences, expected = of(labels, predicted), derivative(metric, labels, predicted)
    np.testing.assert_allclose(influences, expected, rtol=1e-5, atol=1e-6)
    assert influences.mean() == pytest.approx(0, abs=1e-12)
    assert influences.std() > 0.01


def test_constants_have_no_influence_or_no_score():
    same, labels = np.full(4, 0.3), np.array([0.0, 1.0, 0.0, 1.0])
    assert not metrics.mcc_influence(labels, same.astype(int)).any()
    assert not metrics.rmse_influence(labels, labels).any()
    assert not metrics.micro_f1_influence(np.zeros((4, 2)), np.zeros((4, 2))).any()
    assert not metrics.macro_f1_influence(np.zeros((4, 2)), np.zeros((4, 2))).any()
    assert not metrics.auroc_influence(labels == 1, same).any()
    for of in (metrics.pearson_influence, metrics.spearman_influence):
        with pytest.raises(ValueError, match="a constant has no correlation"):
            of(same, labels)
    with pytest.raises(ValueError, match="no variance"):
        metrics.r2_influence(same, labels)
    for of in (metrics.auroc_influence, metrics.average_precision_influence):
        with pytest.raises(ValueError, match="no examples"):
            of(labels > 2, labels)
