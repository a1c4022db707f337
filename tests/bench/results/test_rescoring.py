"""Rows scored by another metric, from stored predictions."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from bench.analysis.groups import groups
from bench.common.errors import InputError
from bench.report.lead import lead
from bench.results.facts import DataFacts
from bench.results.outcomes import Outcome
from bench.results.predictions import outcome_of
from bench.results.rescoring import majority_score, rescored
from tests.bench.synthetic_rows import new_row

N = 200
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, N)
LOGITS = RNG.normal(size=(N, 3)) + np.eye(3)[LABELS]
CLASSES = outcome_of(LOGITS, LABELS, None)
COUNTS = zip((20, 50, 20), np.bincount(LABELS).tolist(), strict=True)
FACTS = DataFacts(
    task="movies", problem="single_label", train=90, dev=N, classes=("a", "b", "c"),
    class_counts=dict(zip("abc", COUNTS, strict=True)),
)  # fmt: skip


def scored(**values):
    known = {"status": "ok", "dev_metric": "accuracy", "dev_score": 0.5, "majority_score": 0.3}
    return new_row(**(known | values))


def source(outcome, missing=()):
    def predictions_of(rows, *, logits=False):
        if rows[0].seed in missing:
            return None
        return {"": outcome if logits else Outcome(outcome.predicted, outcome.labels, "")}

    return predictions_of


def test_score_interval_and_majority_are_those_of_the_metric():
    row, notes = scored(flags="not_learned"), []
    facts = {row.data_digest: FACTS}
    [other] = rescored([row], "macro_f1", source(CLASSES), facts, notes.append)
    expected = f1_score(LABELS, LOGITS.argmax(axis=1), average="macro")
    assert other.dev_metric == "macro_f1"
    assert other.dev_score == pytest.approx(expected)
    assert other.dev_ci_low < expected < other.dev_ci_high
    assert other.majority_score == pytest.approx(f1_score(LABELS, np.ones(N), average="macro"))
    assert other.flags == "not_learned", "a flag is of the row's own metric"
    assert not notes
    [without] = rescored([row], "macro_f1", source(CLASSES), {}, notes.append)
    assert without.majority_score is None


def test_rows_without_predictions_lose_their_score_with_one_note():
    rows = [scored(seed=seed) for seed in range(4)]
    rows.append(scored(seed=5, status="oom", dev_metric=None, dev_score=None))
    notes = []
    result = rescored(rows, "auroc", source(CLASSES, missing=(1, 2)), {}, notes.append)
    assert [row.dev_score is None for row in result] == [False, True, True, False, True]
    assert [row.dev_ci_low is None for row in result[:4]] == [False, True, True, False]
    assert notes == [
        "--metric auroc: 2 rows have no score: it is not defined for the predictions, or needs the "
        "logits in the cells' folders"
    ]


def test_other_problems_and_candidates_keep_their_metric():
    other = scored(task="movies-rating", dev_metric="pearson")
    rows, notes = [scored(), other, scored(learning_rate_source="candidate")], []
    result = rescored(rows, "mcc", source(CLASSES), {}, notes.append)
    assert [row.dev_metric for row in result] == ["mcc", "pearson", "accuracy"]
    assert result[1:] == rows[1:]
    assert notes == ["--metric mcc: 1 row is of other problems, by their own metric"]


def test_a_metric_that_no_row_has_is_refused_with_those_there_are():
    with pytest.raises(InputError) as refused:
        rescored([scored(dev_metric="pearson")], "macro_f1", source(CLASSES), {})
    assert str(refused.value) == (
        "--metric macro_f1: not a metric for regression; choose pearson, spearman, r2, rmse"
    )
    assert rescored([new_row()], "macro_f1", source(CLASSES), {}) == [new_row()]


def test_the_majority_is_that_of_the_training_examples():
    expected = balanced_accuracy_score(LABELS, np.ones(N, dtype=int))
    assert majority_score("balanced_accuracy", CLASSES, FACTS) == pytest.approx(expected)
    assert majority_score("auroc", CLASSES, FACTS) == pytest.approx(0.5)
    labels = (RNG.random((N, 2)) < 0.5).astype(np.int8)
    several = outcome_of(RNG.normal(size=(N, 2)), labels, None)
    counts = FACTS.model_copy(update={"class_counts": {"a": (60, 0), "b": (10, 0)}})
    guess = np.tile([1, 0], (N, 1))
    assert majority_score("micro_f1", several, counts) == pytest.approx(
        f1_score(labels, guess, average="micro")
    )
    numbers = outcome_of(RNG.normal(size=(N, 1)), RNG.normal(size=N), (0.0, 1.0))
    assert majority_score("rmse", numbers, FACTS) is None


@pytest.mark.parametrize(
    ("metric", "fewest", "warns"),
    [("macro_f1", 14, True), ("mcc", 3, True), ("macro_f1", 15, False), ("weighted_f1", 3, False),
     ("macro_f1", 0, False)],
)  # fmt: skip
def test_a_rare_class_is_warned_of_where_the_metric_depends_on_it(metric, fewest, warns):
    counts = {"common": (20, 80), "rare": (20, fewest)}
    facts = FACTS.model_copy(update={"class_counts": counts})
    row, notes = scored(), []
    [other] = rescored([row], metric, source(CLASSES), {row.data_digest: facts}, notes.append)
    assert [f"dev has {fewest} of class 'rare'" in note for note in notes] == [True] * warns
    [group] = groups([other])
    assert ("Warning: dev has" in " ".join(lead(group, {row.data_digest: facts}))) is warns
