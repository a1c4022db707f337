"""Scores and losses agree with scipy and torch."""

import numpy as np
import pytest
from scipy import stats

from minbert.data.metrics import accuracy, constant, pearson, score

RANDOM = np.random.default_rng(0)


def test_accuracy_counts_largest_logits():
    logits = np.array([[0.1, 0.9], [2.0, 1.0], [0.0, 1.0]], dtype=np.float32)
    assert accuracy(logits, np.array([1, 0, 0])) == pytest.approx(2 / 3)
    one = np.array([[0.2], [-0.1], [0.0], [3.0]], dtype=np.float32)
    assert accuracy(one, np.array([1, 1, 0, 0])) == 0.5, "the second class above 0"
    with pytest.raises(ValueError, match="bleu"):
        score("bleu", logits, np.zeros(1))


def test_pearson_agrees_with_scipy():
    x = RANDOM.normal(size=200).astype(np.float32)
    y = x + RANDOM.normal(size=200)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
    assert score("pearson", x[:, None], y) == pytest.approx(pearson(x, y))


@pytest.mark.parametrize("value", [0.1, 3.8])
def test_a_constant_has_no_correlation_whatever_its_mean_is_rounded_to(value):
    """0.1 three times over has a mean of 0.10000000000000002."""
    for count in (1, 2, 3, 7, 60, 863):
        same, others = np.full(count, value), np.arange(float(count))
        assert pearson(same, others) is pearson(others, same) is None
        assert pearson(others.astype(np.float32), same) is None
        assert constant(same)
    assert constant(np.array([]))
    assert not constant(np.array([2.0, np.nextafter(2.0, 3.0)]))
    assert not constant(np.array([2.0, np.nan]))


def test_micro_f1_agrees_with_scikit_learn():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 7)).astype(np.float32)
    labels = (logits + rng.normal(size=logits.shape) > 0.8).astype(np.int8)
    expected = f1_score(labels, logits > 0, average="micro")
    assert score("micro_f1", logits, labels) == pytest.approx(expected)
    assert score("micro_f1", -np.abs(logits), np.zeros_like(labels)) == 0.0
