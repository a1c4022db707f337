"""Baselines of an ensemble, on texts whose answer is known."""

from pathlib import Path

import numpy as np
import pytest

from bench.studies.ensemble.baselines import cosine, is_comparison, threshold, with_tfidf
from minbert.data.metrics import score
from minbert.data.tasks import Examples, TaskData, find_task, load_task

WORDS = ("good", "bad", "dull", "bright", "slow", "quick")


def pairs(task: str, count: int, seed: int) -> Examples:
    """Pairs of texts, half of which say the same."""
    rng = np.random.default_rng(seed)
    a = [" ".join(rng.choice(WORDS, 4)) for _ in range(count)]
    same = rng.integers(0, 2, count)
    b = [
        text if alike else " ".join(rng.choice(WORDS, 4))
        for text, alike in zip(a, same, strict=True)
    ]
    labels = same.astype(np.float64) * 5 if task == "sts" else same
    return Examples(tuple(a), tuple(b), labels)


def data_of(task: str) -> TaskData:
    return TaskData(find_task(task), pairs(task, 300, 0), pairs(task, 100, 1))


@pytest.mark.parametrize("task", ["quora", "sts"])
def test_words_tell_pairs_that_say_the_same(task: str) -> None:
    data = data_of(task)
    found = with_tfidf(data)
    assert found.shape == (100, data.task.num_outputs)
    reached = score(data.task.metric, found, data.dev.labels)
    assert reached is not None
    assert reached > 0.8


def test_words_tell_a_class_better_than_the_majority_does() -> None:
    data = load_task("movies", max_train=2000)
    found = score("accuracy", with_tfidf(data), data.dev.labels)
    majority = np.bincount(data.dev.labels).max() / len(data.dev)
    assert found is not None
    assert found > majority + 0.03


@pytest.mark.parametrize("task", ["quora", "sts"])
def test_embeddings_tell_pairs_that_say_the_same(task: str, tiny_checkpoint: Path) -> None:
    data = data_of(task)
    found = cosine(data, tiny_checkpoint, 32)
    reached = score(data.task.metric, found, data.dev.labels)
    assert reached is not None
    assert reached > 0.6


def test_a_cosine_is_no_prediction_for_a_single_text() -> None:
    assert not is_comparison(load_task("movies", max_train=8, max_dev=8))


@pytest.mark.parametrize(
    ("values", "labels", "expected"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 0.5),
        ([0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0], 0.5),
        ([0.3, 0.4], [1, 1], -0.2),  # all of class 1: below all of them
        ([0.3, 0.4], [0, 0], 0.9),
        ([0.5, 0.5, 0.5, 0.9], [0, 1, 0, 1], 0.7),  # equal numbers can't be parted
    ],
)
def test_the_threshold_parts_classes_best(
    values: list[float], labels: list[int], expected: float
) -> None:
    assert threshold(np.array(values), np.array(labels)) == pytest.approx(expected)
