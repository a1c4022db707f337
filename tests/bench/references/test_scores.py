"""Scores of reference points against scikit-learn and scipy."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from bench.references.linear import scores


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_of_classes_are_those_of_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, classes, 300)
    predictions = rng.random((300, classes)) + 0.3 * np.eye(classes)[labels]
    predictions /= predictions.sum(axis=1, keepdims=True)
    guessed = predictions.argmax(axis=1)
    ranked = predictions[:, 1] if classes == 2 else predictions
    of_ap = labels if classes == 2 else np.eye(classes)[labels]
    expected = {
        "accuracy": metrics.accuracy_score(labels, guessed),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, guessed),
        "macro_f1": metrics.f1_score(labels, guessed, average="macro"),
        "weighted_f1": metrics.f1_score(labels, guessed, average="weighted"),
        "mcc": metrics.matthews_corrcoef(labels, guessed),
        "auroc": metrics.roc_auc_score(labels, ranked, multi_class="ovr"),
        "average_precision": metrics.average_precision_score(of_ap, ranked),
    }
    found = scores("single_label", predictions, labels)
    assert {name: score[0] for name, score in found.items()} == pytest.approx(expected)
    assert all(low < value < high for value, low, high in found.values())


def test_scores_of_a_constant_prediction() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2])
    found = scores("single_label", np.tile([0.5, 0.2, 0.3, 0.0], (6, 1)), labels)
    assert found["accuracy"][0] == 0.5
    assert found["mcc"][0] == 0
    assert found["auroc"][0] == pytest.approx(0.5)
    assert found["balanced_accuracy"][0] == pytest.approx(1 / 3)  # of the classes that dev has
    assert found["macro_f1"][0] == pytest.approx(2 / 3 / 3)
    assert scores("single_label", np.eye(2)[[0, 1]], np.array([0, 0]))["auroc"] is None


def test_scores_of_several_labels_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    labels = (rng.random((200, 3)) < (0.5, 0.2, 0)).astype(np.int8)
    predictions = rng.normal(size=(200, 3)) + labels - (0, 0, 9)
    found = scores("multi_label", predictions, labels)
    for name in ("micro", "macro"):
        expected = metrics.f1_score(labels, predictions > 0, average=name, zero_division=0)
        assert found[f"{name}_f1"][0] == pytest.approx(expected)


def test_scores_of_numbers_are_those_of_scipy_and_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    labels = rng.normal(size=250).round(1)
    predictions = 0.7 * labels + rng.normal(size=250)
    found = scores("regression", predictions[:, None], labels)
    assert {name: score[0] for name, score in found.items()} == pytest.approx({
        "pearson": stats.pearsonr(predictions, labels).statistic,
        "spearman": stats.spearmanr(predictions, labels).statistic,
        "r2": metrics.r2_score(labels, predictions),
        "rmse": metrics.root_mean_squared_error(labels, predictions),
    })  # fmt: skip
    assert found["pearson"][1:] == pytest.approx(
        stats.pearsonr(predictions, labels).confidence_interval()
    )
    assert all(low < value < high for value, low, high in found.values())


def test_a_mean_has_an_error_and_no_correlation() -> None:
    found = scores("regression", np.zeros((4, 1)), np.array([1.0, -1.0, 1.0, -1.0]))
    assert found["pearson"] is None
    assert found["spearman"] is None
    assert found["rmse"][0] == 1
    assert found["r2"][0] == 0


def test_an_interval_by_influence_has_the_width_of_wilsons() -> None:
    """Balanced accuracy of classes of one size is accuracy, but for their numbers in samples."""
    labels = np.repeat([0, 1], 500)
    guessed = np.where(np.arange(1000) % 10 < 7, labels, 1 - labels)
    found = scores("single_label", np.eye(2)[guessed], labels)
    assert found["balanced_accuracy"][0] == pytest.approx(0.7)
    assert found["balanced_accuracy"][1:] == pytest.approx(found["accuracy"][1:], abs=0.006)
