"""Scores and losses agree with scipy and torch."""

import numpy as np
import pytest
from scipy import stats

from minbert.data.metrics import accuracy, constant, pearson, score

RANDOM = np.random.default_rng(0)


def test_accuracy_counts_largest_logits() -> None:
    logits = np.array([[0.1, 0.9], [2.0, 1.0], [0.0, 1.0]], dtype=np.float32)
    assert accuracy(logits, np.array([1, 0, 0])) == pytest.approx(2 / 3)


def test_pearson_agrees_with_scipy() -> None:
    x = RANDOM.normal(size=200).astype(np.float32)
    y = x + RANDOM.normal(size=200)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
    assert score("pearson", x[:, None], y) == pytest.approx(pearson(x, y))


def test_pearson_of_a_constant_is_none() -> None:
    assert pearson(np.ones(5, dtype=np.float32), np.arange(5.0)) is None


@pytest.mark.parametrize("count", [1, 2, 3, 7, 60, 863])
@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 1.1, 3.8])
def test_it_is_whatever_the_mean_is_rounded_to(count: int, value: float) -> None:
    """0.1 three times over has a mean of 0.10000000000000002."""
    same, others = np.full(count, value), np.arange(float(count))
    assert pearson(same, others) is None
    assert pearson(others, same) is None
    assert pearson(others.astype(np.float32), same) is None
    assert constant(same)


def test_what_is_constant() -> None:
    assert constant(np.array([]))
    assert constant(np.array([2, 2]))
    assert not constant(np.array([2.0, np.nextafter(2.0, 3.0)]))
    assert not constant(np.array([2.0, np.nan]))


def test_micro_f1_agrees_with_scikit_learn() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 7)).astype(np.float32)
    labels = (logits + rng.normal(size=logits.shape) > 0.8).astype(np.int8)
    expected = f1_score(labels, logits > 0, average="micro")
    assert score("micro_f1", logits, labels) == pytest.approx(expected)
    assert score("micro_f1", -np.abs(logits), np.zeros_like(labels)) == 0.0


def test_unknown_metric_is_an_error() -> None:
    with pytest.raises(ValueError, match="bleu"):
        score("bleu", np.zeros((1, 1), dtype=np.float32), np.zeros(1))
