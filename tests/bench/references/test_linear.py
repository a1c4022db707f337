"""Simple methods on texts whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from bench.references.linear import frozen, majority, predict, scores, tfidf
from minbert.data.tasks import Examples, Task, find_task

WORDS = ("good", "bad", "dull", "bright", "slow", "quick")
CLASSES = Task("mine", ("no", "yes", "never"))
NUMBERS = find_task("sts")


class LabelsTask(Task):
    """A task of several labels."""

    kind = "multi_label"


def texts(count, seed):
    rng = np.random.default_rng(seed)
    return tuple(" ".join(rng.choice(WORDS, 4)) for _ in range(count))


def holds(words, word):
    return np.array([word in text.split() for text in words]).astype(np.int64)


def single(count, seed):
    words = texts(count, seed)
    return Examples(words, None, holds(words, "good"))


def pairs(count, seed):
    """Pairs of texts, of which half say the same."""
    rng = np.random.default_rng(seed)
    a, other = texts(count, seed), texts(count, seed + 100)
    same = rng.integers(0, 2, count)
    b = tuple(one if alike else two for one, two, alike in zip(a, other, same, strict=True))
    return Examples(a, b, same)


def test_the_majority_is_of_the_training_examples():
    train = Examples(tuple("abcd"), None, np.array([2, 1, 2, 1]))
    assert majority(CLASSES, train, 3).argmax(axis=1).tolist() == [1, 1, 1]  # of several the first
    numbers = Examples(tuple("abc"), None, np.array([1.0, 2.0, 6.0]))
    assert majority(NUMBERS, numbers, 2).tolist() == [[3.0], [3.0]]
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=np.int8)
    several = majority(LabelsTask("mine", ("a", "b", "c")), replace(train, labels=labels), 1)
    assert (several > 0).tolist() == [[True, False, False]]  # half is not most


@pytest.mark.parametrize("examples", [single, pairs])
def test_words_tell_a_class_and_whether_texts_say_the_same(examples):
    predictions, method = tfidf(CLASSES, examples(300, 0), dev := examples(100, 1))
    assert predictions.shape == (100, 3)
    assert not predictions[:, 2].any()  # a class that no training example has
    assert scores("single_label", [predictions], [dev])["accuracy"][0] > 0.9
    assert method.startswith("logistic regression with C ")


def test_words_tell_numbers_and_several_labels():
    train, dev = (pairs(count, seed) for count, seed in ((300, 0), (100, 1)))
    predictions, method = tfidf(NUMBERS, replace(train, labels=train.labels * 5.0), dev)
    dev = replace(dev, labels=dev.labels * 5.0)
    assert scores("regression", [predictions], [dev])["pearson"][0] > 0.8
    assert method.startswith("ridge regression with alpha ")

    def several(count, seed):
        words = texts(count, seed)
        labels = [holds(words, word) for word in ("good", "slow", "never")]
        return Examples(words, None, np.stack(labels, axis=1).astype(np.int8))

    task = LabelsTask("mine", ("good", "slow", "never"))
    predictions, _ = tfidf(task, several(300, 0), dev := several(100, 1))
    assert scores("multi_label", [predictions], [dev])["micro_f1"][0] > 0.9
    assert not (predictions[:, 2] > 0).any()


def test_a_linear_model_on_embeddings_is_as_strongly_regularised_as_held_out_examples_ask():
    rng = np.random.default_rng(0)
    train, dev = single(400, 0), single(200, 1)
    signal, noise = (
        [np.c_[sides.labels * scale, rng.normal(size=(len(sides), 150))] for sides in (train, dev)]
        for scale in (100.0, 0.0)
    )
    clear, of_signal = frozen(CLASSES, train, *signal)
    assert scores("single_label", [clear], [dev])["accuracy"][0] > 0.95
    _, of_noise = frozen(CLASSES, train, *noise)
    assert float(of_noise.split()[-1]) < float(of_signal.split()[-1])
    again = frozen(CLASSES, train, signal[0] * 3 + 1, signal[1] * 3 + 1)[0]
    assert np.allclose(again, clear, atol=1e-6)  # standardised


def test_dev_labels_change_nothing_and_the_same_is_found_again():
    task, train, dev = CLASSES, single(100, 0), single(50, 1)
    before = predict("tf-idf", task, train, dev)
    after = predict("tf-idf", task, train, replace(dev, labels=1 - dev.labels))
    assert (before[0] == after[0]).all()
    assert before[1] == after[1]


def test_nothing_to_learn_from_is_a_line():
    for labels, why in (([1, 1], "labels are all the same"), ([0, 1], "no word is in two")):
        words = ("the film", "the play") if labels == [1, 1] else ("film", "play")
        examples = Examples(words, None, np.array(labels))
        with pytest.raises(ValueError, match=why):
            tfidf(CLASSES, examples, examples)
    with pytest.raises(ValueError, match="not finite"):
        frozen(CLASSES, single(4, 0), np.full((4, 2), np.nan), np.zeros((4, 2)))


def test_scores_of_a_constant_prediction():
    def scored(problem, predictions, labels):
        return scores(problem, [predictions], [Examples(("",) * len(labels), None, labels)])

    labels = np.array([0, 0, 0, 1, 2, 2])
    found = scored("single_label", np.tile([0.5, 0.2, 0.3, 0.0], (6, 1)), labels)
    assert found["accuracy"][0] == 0.5
    assert found["mcc"][0] == 0
    assert found["auroc"][0] == pytest.approx(0.5)
    assert found["balanced_accuracy"][0] == pytest.approx(1 / 3)  # of the classes that dev has
    assert scored("single_label", np.eye(2)[[0, 1]], np.array([0, 0]))["auroc"] is None
    found = scored("regression", np.zeros((4, 1)), np.array([1.0, -1.0, 1.0, -1.0]))
    assert found["pearson"] is found["spearman"] is None
    assert (found["rmse"][0], found["r2"][0]) == (1, 0)
