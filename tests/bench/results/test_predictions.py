"""Kept predictions as a number for each example, whose mean is the score, and rows scored by
another metric from them."""

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.metrics import balanced_accuracy_score, f1_score

from bench.analysis.groups import groups
from bench.analysis.verdicts import compare, score_spread
from bench.common.errors import InputError
from bench.report.lead import lead
from bench.results.facts import DataFacts
from bench.results.outcomes import Outcome
from bench.results.predictions import (
    first_of,
    kept_predictions,
    mean_of_parts,
    no_predictions,
    outcome_of,
    values_for,
)
from bench.results.rescoring import majority_score, rescored
from bench.results.store import cell_folder
from tests.bench.stored_values import kept_values
from tests.bench.synthetic_rows import cell, new_row, result_row

RNG = np.random.default_rng(0)


def test_of_a_correlation_the_mean_is_exact_and_the_spread_that_of_fisher():
    x = RNG.normal(size=4000)
    y = 0.6 * x + 0.8 * RNG.normal(size=4000)
    values = values_for("pearson", x[:, None], y)
    correlation = np.corrcoef(x, y)[0, 1]
    assert values.mean() == pytest.approx(correlation, abs=1e-12)
    error = values.std() / np.sqrt(len(values))
    assert error == pytest.approx((1 - correlation**2) / np.sqrt(len(values)), rel=0.1)


def test_of_a_mean_over_parts_mean_and_variance_are_exact():
    parts = [RNG.random(30), (RNG.random(400) < 0.3).astype(float), RNG.normal(2.0, 1.0, 90)]
    values = mean_of_parts(parts)
    assert len(values) == 520
    assert values.mean() == pytest.approx(np.mean([part.mean() for part in parts]))
    expected = sum(part.var() / len(part) for part in parts) / 9
    assert values.var() / len(values) == pytest.approx(expected)
    others = [part + RNG.normal(0.1, 0.1, len(part)) for part in parts]
    gap = mean_of_parts(others) - values
    gaps = [other - part for other, part in zip(others, parts, strict=True)]
    np.testing.assert_allclose(gap, mean_of_parts(gaps), rtol=1e-9, atol=1e-12)
    assert mean_of_parts(parts[:1]) == pytest.approx(parts[0])
    with pytest.raises(ValueError, match="no part"):
        mean_of_parts([])


def keep(runs, of, right):
    row = result_row(of)
    row |= {"dev_metric": "accuracy", "dev_score": float(right.mean())}
    folder = cell_folder(runs, of.name, *row.row_key)
    folder.mkdir(parents=True)
    tensors = {"logits": np.stack([1.0 - right, right], axis=1), "labels": np.ones(len(right), int)}
    save_file(tensors, folder / "predictions.safetensors")
    return row


def test_settings_are_compared_example_by_example(tmp_path):
    runs = tmp_path / "runs.csv"
    base = (RNG.random(1000) < 0.6).astype(np.float64)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:30]] = 1.0
    full, lora = cell("full", None, None, "off"), cell("lora", 8, "attn", "off")
    rows = [keep(runs, full, base), keep(runs, lora, better)]
    (plain,) = groups(rows)
    (paired,) = groups(rows, (), kept_values(runs))
    lora, full = (next(s for s in paired.settings if s.mode == m) for m in ("lora", "full"))
    gap = compare(paired, "score", lora, full)
    assert gap.value == pytest.approx(0.03)
    assert 0.019 < gap.low < gap.high < 0.041
    loose = compare(plain, "score", *(plain.settings[::-1]))
    assert loose.low < 0 < loose.high
    assert score_spread(lora, full).of_seeds is None


def test_folds_of_several_files_are_joined(tmp_path):
    files = [tmp_path / name for name in ("a.csv", "b.csv")]
    rights = [np.ones(4), np.zeros(5), np.ones(6)]
    rows = [
        keep(files[fold % 2], cell("full", None, None, "off", folds=3, fold=fold), right)
        for fold, right in enumerate(rights)
    ]
    found = first_of([kept_predictions(path) for path in files])(rows)
    assert found[""].predicted.tolist() == np.concatenate(rights).tolist()
    assert first_of([kept_predictions(files[0])])(rows) is None


def test_what_is_missing_or_broken_is_unknown(tmp_path):
    runs = tmp_path / "runs.csv"
    row = keep(runs, cell("full", None, None, "off"), np.ones(5))
    (file,) = (tmp_path / "runs").glob("*/predictions.safetensors")
    values_of = kept_values(runs)
    file.write_bytes(b"no tensors")
    assert values_of([row]) is None
    assert kept_predictions(tmp_path / "other.csv") is no_predictions
    assert kept_values(runs)([row | {"cell_id": "../../etc"}]) is None
    known = {"": outcome_of(np.ones((2, 1)), np.ones(2, dtype=np.int64), None)}
    assert first_of([no_predictions, lambda rows, logits=False: known])([row]) == known


N = 200
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
