"""Influences against numerical derivatives of scikit-learn's metrics, and against a bootstrap."""

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as library

from bench.stats import metrics

Numbers = np.ndarray[Any, Any]
N = 60


def classes(seed=0, number=4, n=N):
    """Labels of unequal frequency, and predictions that are better than chance."""
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.integers(0, number, n), rng.integers(0, number, n))
    wrong = rng.random(n) < 0.4
    return labels, np.where(wrong, rng.integers(0, number, n), labels)


def ranked(seed=0, n=N, ties=True):
    """Whether examples are of a class, and scores, several of which are equal."""
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.3
    scores = rng.normal(size=n) + labels
    return labels, scores.round(1) if ties else scores


def numbers(seed=0, n=N):
    """Numbers as labels, and predictions, each with equal ones among them."""
    rng = np.random.default_rng(seed)
    labels = rng.normal(3.0, 2.0, n)
    return labels.round(1), (0.6 * labels + rng.normal(size=n)).round(1)


def several(seed=0, n=N):
    """Labels [N, 5], of which the last never occurs, and predictions."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 5)) < [0.5, 0.3, 0.2, 0.05, 0.0]).astype(np.int8)
    flips = rng.random((n, 5)) < [0.2, 0.2, 0.1, 0.1, 0.0]
    return labels, np.where(flips, 1 - labels, labels)


def correlation(x, y, weight):
    x, y = x - np.average(x, weights=weight), y - np.average(y, weights=weight)
    return float((weight * x * y).sum() / np.sqrt((weight * x * x).sum() * (weight * y * y).sum()))


def midranks(values, weight):
    below = (values[None, :] < values[:, None]) + (values[None, :] == values[:, None]) / 2
    return below @ weight


def spearman(labels, predicted, sample_weight=None):
    weight = np.ones(len(labels)) if sample_weight is None else sample_weight
    return correlation(midranks(labels, weight), midranks(predicted, weight), weight)


def pearson(labels, predicted, sample_weight=None):
    weight = np.ones(len(labels)) if sample_weight is None else sample_weight
    return correlation(labels, predicted, weight)


def f1(average):
    return lambda labels, predicted, sample_weight=None: library.f1_score(
        labels, predicted, average=average, sample_weight=sample_weight, zero_division=0
    )


CASES = {
    "balanced accuracy": (
        metrics.balanced_accuracy_influence, library.balanced_accuracy_score, classes),
    "macro F1": (metrics.macro_f1_influence, f1("macro"), classes),
    "weighted F1": (metrics.weighted_f1_influence, f1("weighted"), classes),
    "MCC": (metrics.mcc_influence, library.matthews_corrcoef, classes),
    "AUROC": (metrics.auroc_influence, library.roc_auc_score, ranked),
    "AP": (metrics.average_precision_influence, library.average_precision_score, ranked),
    "Pearson": (metrics.pearson_influence, pearson, numbers),
    "Spearman": (metrics.spearman_influence, spearman, numbers),
    "R2": (metrics.r2_influence, library.r2_score, numbers),
    "RMSE": (metrics.rmse_influence, library.root_mean_squared_error, numbers),
    "micro F1 of labels": (metrics.micro_f1_influence, f1("micro"), several),
    "macro F1 of labels": (metrics.macro_f1_influence, f1("macro"), several),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_influence_is_the_derivative_by_the_examples_weight(name):
    of, metric, draw = CASES[name]
    labels, predicted = draw()
    step, derivative = 1e-5, np.empty(N)
    for index in range(N):
        ends = []
        for sign in (1, -1):
            weight = np.ones(N)
            weight[index] += sign * step
            ends.append(metric(labels, predicted, sample_weight=weight))
        derivative[index] = N * (ends[0] - ends[1]) / (2 * step)
    influences = of(labels, predicted)
    np.testing.assert_allclose(influences, derivative, rtol=1e-5, atol=1e-6)
    assert influences.mean() == pytest.approx(0, abs=1e-12)
    assert influences.std() > 0.01


@pytest.mark.parametrize("name", ["balanced accuracy", "macro F1", "weighted F1", "MCC"])
def test_classes_that_labels_or_predictions_lack(name):
    of, metric, _ = CASES[name]
    labels, predicted = np.array([0, 0, 2, 2, 5]), np.array([0, 7, 2, 0, 5])
    step, derivative = 1e-5, []
    for index in range(5):
        weight = np.ones(5)
        weight[index] += step
        up = metric(labels, predicted, sample_weight=weight)
        weight[index] -= 2 * step
        derivative.append(5 * (up - metric(labels, predicted, sample_weight=weight)) / (2 * step))
    np.testing.assert_allclose(of(labels, predicted), derivative, rtol=1e-4, atol=1e-6)


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
    with pytest.raises(ValueError, match="no examples"):
        metrics.auroc_influence(labels > 2, labels)
    with pytest.raises(ValueError, match="no examples"):
        metrics.average_precision_influence(labels > 2, labels)
