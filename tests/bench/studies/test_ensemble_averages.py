"""Ensembles on made-up models whose errors are known."""

import numpy as np
import pytest

from bench.studies.ensemble.averages import AVERAGES, as_averaged, averaged, choose
from minbert.data.metrics import score

LABELS = np.random.default_rng(0).integers(0, 3, 600)


def model(seed):
    """Logits [N, 3] that point to the label, more or less, with errors of their own."""
    noise = np.random.default_rng(seed).normal(size=(len(LABELS), 3))
    return noise + np.eye(3)[LABELS]


def test_a_choice_has_all_its_stages():
    models = [as_averaged(model(seed), "accuracy", "logits") for seed in range(4)]
    choice = choose(models, LABELS, "accuracy", most=9)
    assert len(choice.additions) == 9
    for size, (_, held_score) in enumerate(choice.additions, start=1):
        members = [index for index, _ in choice.additions[:size]]
        together = tuple((index, members.count(index)) for index in {*members})
        reached = score("accuracy", averaged(models, together), LABELS)
        assert reached == pytest.approx(held_score)
    taken = choice.additions[: sum(weight for _, weight in choice.weights)]
    highest = max(held_score for _, held_score in choice.additions)
    assert taken[-1][1] == choice.held_score == highest
    assert all(held_score < choice.held_score for _, held_score in taken[:-1])
    assert choose(models, LABELS, "accuracy", most=1).additions == choice.additions[:1]


@pytest.mark.parametrize("average", AVERAGES)
def test_one_logit_of_two_classes_is_averaged_as_two(average):
    one = np.array([[-3.0], [0.0], [0.5], [800.0]])
    two = np.concatenate([np.zeros_like(one), one], axis=1)
    found, expected = (as_averaged(logits, "accuracy", average) for logits in (one, two))
    assert found.shape == (4, 2)
    np.testing.assert_allclose(found[:, 1] - found[:, 0], expected[:, 1] - expected[:, 0])
    assert found.argmax(axis=1).tolist() == [0, 0, 1, 1]
    if average == "probabilities":
        np.testing.assert_allclose(found.sum(axis=1), 1.0)


def test_numbers_of_any_scale_are_averaged_alike():
    labels = np.random.default_rng(1).normal(size=500)
    noise = np.random.default_rng(2).normal(size=(2, 500))
    one, other = (labels + noise[0])[:, None], 1000 * (labels + noise[1])[:, None] + 7
    models = [as_averaged(values, "pearson", "logits") for values in (one, other)]
    choice = choose(models, labels, "pearson")
    assert {index for index, _ in choice.weights} == {0, 1}
    alone = [score("pearson", values, labels) for values in models]
    assert choice.held_score > max(alone) + 0.05


@pytest.mark.parametrize("value", [1.0, 0.1, 3.8])
def test_constant_numbers_have_no_correlation(value):
    with pytest.raises(ValueError, match="all the same"):
        as_averaged(np.full((3, 1), value), "pearson", "logits")
