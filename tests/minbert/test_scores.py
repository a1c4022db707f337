"""Scores and losses agree with scipy and torch."""

import numpy as np
import pytest
from scipy import stats

from minbert.scores import accuracy, pearson, score

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


def test_unknown_metric_is_an_error() -> None:
    with pytest.raises(ValueError, match="bleu"):
        score("bleu", np.zeros((1, 1), dtype=np.float32), np.zeros(1))
