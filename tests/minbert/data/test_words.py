"""Scores and entities against scipy, scikit-learn and seqeval; tags and logits as arrays."""

from itertools import product

import numpy as np
import pytest
from scipy import stats
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2
from sklearn.metrics import f1_score as f1_score_of_classes

from bench.plan.metrics import METRICS, WORDS, metrics_for
from bench.stats import metrics
from minbert.data import words
from minbert.data.metrics import accuracy, constant, pearson, score
from minbert.data.problems import TOKEN_CLASSIFICATION, problem_of
from minbert.data.tasks import Examples, Folds, Task, TaskData
from minbert.data.words import INSIDE_WORD, OUTSIDE_TEXT, entities_in, entity_f1, padded

NAMES = ("O", "B-a", "I-a", "B-b", "I-b", "B-c", "I-c")


def drawn(seed, texts=30):
    """Random tags and predictions, half of which are right."""
    rng = np.random.default_rng(seed)
    true = padded([rng.integers(0, 7, rng.integers(1, 12)) for _ in range(texts)])
    other = rng.integers(0, 7, true.shape)
    guess = np.where(rng.random(true.shape) < 0.5, other, true).astype(np.int16)
    return true, np.where(true < 0, true, guess).astype(np.int16)


def named(tags):
    return [[NAMES[tag] for tag in row if tag >= 0] for row in tags.tolist()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(20))
def test_scores_are_those_of_seqeval_to_the_last_digit(seed):
    true, guess = drawn(seed, texts=1 + 3 * seed)
    pair, strict = (named(true), named(guess)), {"mode": "strict", "scheme": IOB2}
    assert entity_f1(true, guess) == f1_score(*pair, **strict)
    assert entity_f1(true, guess, any_start=True) == f1_score(*pair)
    assert metrics.entity_share(true, guess, among=(1,)) == precision_score(*pair, **strict)
    assert metrics.entity_share(true, guess, among=(2,)) == recall_score(*pair, **strict)
    macro = f1_score(*pair, average="macro", **strict)
    assert metrics.entity_macro_f1(true, guess) == pytest.approx(macro, abs=1e-12)


def test_entities_end_at_the_end_of_a_text_and_have_types_and_words():
    true = padded([[1, 2], [2, 1], [0], [3, 4, 4]])
    assert words.entity_counts(true, true).tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0], [1, 1, 1]]
    shorter = padded([[1, 0], [2, 1], [1], [3, 4, 0]])
    assert words.entity_counts(true, shorter)[:, 0].tolist() == [0, 1, 0, 0]
    assert entity_f1(true, np.minimum(true, 0)) == 0.0
    with pytest.raises(ValueError, match="values to unpack"):
        metrics.entity_macro_f1(padded([[0]]), padded([[0]]))

    true, guess = padded([[1, 2, 0, 3, 1]]), padded([[3, 4, 0, 0, 1]])
    assert [each.tolist() for each in words.entity_kinds(true, guess)] == [[0, 0, 1], [1, 0, -1]]
    longer = padded([[1, 2, 2, 0, 1]])
    kinds = [each.tolist() for each in words.entity_kinds(true, longer)]
    assert kinds == [[0, 0, 1, -1], [0, -1, -1, 0]]

    true, guess = padded([[1, 2, 0], [3], [0, 1, 1]]), padded([[1, 0, 0], [3], [0, 1, 2]])
    texts = ("New York is", "Ann", "in Oslo Bergen")
    assert entities_in(texts, true) == [(0, "New York"), (1, "Ann"), (0, "Oslo"), (0, "Bergen")]
    assert words.recalled(true, guess).tolist() == [False, True, False, False]


@pytest.mark.parametrize("name", metrics_for(WORDS))
def test_influences_are_derivatives_by_the_weight_of_a_text(name):
    value, influence = METRICS[name].functions()
    true, guess = drawn(7)
    influences = influence(true, guess)
    assert influences.sum() == pytest.approx(0, abs=1e-9)
    at, copies = 4, 500  # one text more among 500 copies is a small step
    many = [np.tile(tags, (copies, 1)) for tags in (true, guess)]
    more = [np.concatenate([m, t[at : at + 1]]) for m, t in zip(many, (true, guess), strict=True)]
    step = (value(*more) - value(*many)) * copies * len(true)
    assert step == pytest.approx(influences[at], rel=0.01, abs=1e-3)


def test_tags_and_logits_are_laid_out_text_after_text():
    tags = padded([[1, 0], [], [2]])
    assert tags.dtype == np.int16
    assert tags.tolist() == [[1, 0], [-1, -1], [2, -1]]
    assert words.joined(tags, padded([[0, 0, 0]])).tolist()[-2:] == [[2, -1, -1], [0, 0, 0]]
    logits = np.eye(7)[[5, 0, 6]]
    assert words.predicted_tags(logits, tags).tolist() == [[5, 0], [-1, -1], [6, -1]]
    with pytest.raises(ValueError, match="no logits for each word"):
        words.predicted_tags(logits[:2], tags)
    labels = np.array([OUTSIDE_TEXT, 1, INSIDE_WORD, 0, OUTSIDE_TEXT, OUTSIDE_TEXT, 2])
    rows, flat = words.of_tokens(np.arange(7)[:, None], labels)
    assert rows.ravel().tolist() == [1, 3, 6]
    assert flat.tolist() == [[-1, 1, 0, -1, -1, 2]]


def test_folds_join_sides_whose_texts_are_of_other_lengths():
    short = Examples(tuple(f"a{n} b" for n in range(8)), None, padded([[1, 0]] * 8))
    long = Examples(tuple(f"{n} b c d" for n in range(4)), None, padded([[3, 4, 0, 0]] * 4))
    folds = Folds(TaskData(Task("names", NAMES, problem_name=WORDS, is_own=True), short, long), 4)
    assert folds.examples.labels.shape == (12, 4)
    assert sum(folds.fold(n).dev.words for n in range(4)) == folds.examples.words == 32
    assert folds.fold(0).majority == 0.0


def test_a_problem_writes_what_it_reads():
    values = [[1, 2, 0], [0]]
    labels = TOKEN_CLASSIFICATION.read(values, 7)
    assert [TOKEN_CLASSIFICATION.written(row) for row in labels] == values
    assert problem_of(labels) is TOKEN_CLASSIFICATION
    assert TOKEN_CLASSIFICATION.counted(labels, NAMES) == {"a": 1, "b": 0, "c": 0}
    strata = TOKEN_CLASSIFICATION.strata(padded([[1, 2]] * 12 + [[0, 3]] * 12 + [[0]] * 12))
    assert [len(set(part)) for part in np.split(strata, 3)] == [1, 1, 1]
    assert len(set(strata.tolist())) == 3


def test_scores_are_those_of_scipy_and_scikit_learn():
    logits = np.array([[0.1, 0.9], [2.0, 1.0], [0.0, 1.0]], dtype=np.float32)
    assert accuracy(logits, np.array([1, 0, 0])) == pytest.approx(2 / 3)
    one = np.array([[0.2], [-0.1], [0.0], [3.0]], dtype=np.float32)
    assert accuracy(one, np.array([1, 1, 0, 0])) == 0.5, "the second class above 0"
    with pytest.raises(ValueError, match="bleu"):
        score("bleu", logits, np.zeros(1))
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 7)).astype(np.float32)
    numbers = logits[:, 0] + rng.normal(size=200)
    expected = stats.pearsonr(logits[:, 0], numbers).statistic
    assert score("pearson", logits[:, :1], numbers) == pytest.approx(expected, abs=1e-9)
    labels = (logits + rng.normal(size=logits.shape) > 0.8).astype(np.int8)
    expected = f1_score_of_classes(labels, logits > 0, average="micro")
    assert score("micro_f1", logits, labels) == pytest.approx(expected)
    assert score("micro_f1", -np.abs(logits), np.zeros_like(labels)) == 0.0


def test_a_constant_has_no_correlation_whatever_its_mean_is_rounded_to():
    """0.1 three times over has a mean of 0.10000000000000002."""
    for count, value in product((1, 2, 3, 7, 60, 863), (0.1, 3.8)):
        same, others = np.full(count, value), np.arange(float(count))
        assert pearson(same, others) is pearson(others, same) is None
        assert pearson(others.astype(np.float32), same) is None
        assert constant(same)
    assert constant(np.array([]))
    assert not constant(np.array([2.0, np.nextafter(2.0, 3.0)]))
    assert not constant(np.array([2.0, np.nan]))
