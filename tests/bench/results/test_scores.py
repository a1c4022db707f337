"""Scores and numbers of stored predictions, against scikit-learn on the same predictions."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.special import softmax
from scipy.stats import binomtest, spearmanr
from sklearn import metrics as library
from sklearn.preprocessing import label_binarize

from bench.plan.metrics import DEFAULTS, METRICS, check_metric, metrics_for, problem_of
from bench.results.outcomes import Outcome, joined
from bench.results.predictions import kept_predictions, outcome_of, read_folder, values_from
from bench.results.scores import has_interval, interval_of, numbers, probabilities, score_of
from bench.results.store import cell_folder
from bench.stats.intervals import spread
from minbert.data.problems import PROBLEMS
from minbert.data.words import padded
from tests.bench.synthetic_rows import new_row

N = 300


def of_classes(number, columns=None, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, number, N)
    logits = rng.normal(size=(N, columns or number)).astype(np.float32)
    if columns == 1:
        logits[:, 0] += labels * 2 - 1
    else:
        logits[np.arange(N), labels] += 1
    return outcome_of(logits, labels, None)


def of_numbers(unit=(900.0, 250.0)):
    rng = np.random.default_rng(0)
    targets = rng.normal(size=N)
    logits = (targets + rng.normal(size=N)).astype(np.float32)[:, None]
    return outcome_of(logits, targets * 250 + 900, unit)


def of_labels():
    rng = np.random.default_rng(0)
    labels = (rng.random((N, 9)) < 0.3).astype(np.int8)
    return outcome_of(labels * 2 - 1.2 + rng.normal(size=(N, 9)), labels, None)


@pytest.mark.parametrize(("number", "columns"), [(5, 5), (2, 2), (2, 1)])
def test_scores_of_classes_are_those_of_the_library(number, columns):
    outcome = of_classes(number, columns)
    labels, predicted, logits = outcome.labels, outcome.predicted, outcome.logits.astype(float)
    ranked = logits[:, -1] - (columns - 1) * logits[:, 0]
    ranked = ranked if number == 2 else softmax(logits, axis=1)
    each = label_binarize(labels, classes=range(number))
    expected = {
        "accuracy": library.accuracy_score(labels, predicted),
        "balanced_accuracy": library.balanced_accuracy_score(labels, predicted),
        "macro_f1": library.f1_score(labels, predicted, average="macro"),
        "weighted_f1": library.f1_score(labels, predicted, average="weighted"),
        "mcc": library.matthews_corrcoef(labels, predicted),
        "auroc": library.roc_auc_score(labels, ranked, multi_class="ovr"),
        "average_precision": library.average_precision_score(each, ranked),
    }
    assert metrics_for("single_label") == tuple(expected)
    scores = {metric: numbers(metric, outcome).mean() for metric in expected}
    assert scores == pytest.approx(expected, abs=1e-12)


def test_scores_of_numbers_are_in_the_unit_of_the_labels():
    outcome = of_numbers()
    labels, predicted = outcome.labels, outcome.predicted
    expected = {
        "pearson": np.corrcoef(labels, predicted)[0, 1],
        "spearman": spearmanr(labels, predicted).statistic,
        "r2": library.r2_score(labels, predicted),
        "rmse": library.root_mean_squared_error(labels, predicted),
    }
    assert metrics_for("regression") == tuple(expected)
    scores = {metric: numbers(metric, outcome).mean() for metric in expected}
    assert scores == pytest.approx(expected, rel=1e-9)


def test_scores_of_several_labels_are_those_of_the_library():
    outcome = of_labels()
    for metric in metrics_for("multi_label"):
        average = metric.removesuffix("_f1")
        score = library.f1_score(outcome.labels, outcome.predicted, average=average)
        assert numbers(metric, outcome).mean() == pytest.approx(score, abs=1e-12)


def test_a_class_without_dev_examples_has_no_curve_of_its_own():
    outcome = of_classes(4, 6)
    areas = [
        library.roc_auc_score(outcome.labels == label, probabilities(outcome.logits)[:, label])
        for label in range(4)
    ]
    assert numbers("auroc", outcome).mean() == pytest.approx(np.mean(areas))
    with pytest.raises(ValueError, match="no examples"):
        numbers("auroc", outcome_of(np.zeros((3, 2)), np.ones(3, dtype=np.int64), None))


def test_what_is_not_stored_gives_no_score():
    bits = Outcome(np.array([True, False, True]), None, "")
    assert numbers("accuracy", bits).tolist() == [1.0, 0.0, 1.0]
    classes, values = of_classes(3), of_numbers(unit=None)
    without_logits = Outcome(classes.predicted, classes.labels, "")
    for metric, outcome, reason in (
        ("macro_f1", bits, "only right and wrong"),
        ("auroc", without_logits, "logits are not stored"),
        ("rmse", values, "not in the unit"),
        ("macro_f1", values, "not defined"),
        ("micro_f1", classes, "not defined"),
    ):
        with pytest.raises(ValueError, match=reason):
            numbers(metric, outcome)
    assert numbers("spearman", values).mean() == pytest.approx(
        numbers("spearman", of_numbers()).mean()
    )


def test_an_interval_is_exact_where_there_is_a_formula_and_within_bounds():
    right = np.array([1.0] * 90 + [0.0] * 10)
    assert score_of("accuracy", [right]).low == pytest.approx(0.8256, abs=1e-3)
    labels = of_classes(3).labels
    score = score_of("macro_f1", [numbers("macro_f1", Outcome(labels, labels, ""))])
    assert score.low < score.value == score.high == 1.0
    error = numbers("rmse", of_numbers())
    assert score_of("rmse", [error]) == spread(error[None, :]).interval()
    several = score_of("rmse", [error, error + 50])
    assert several.value == pytest.approx(error.mean() + 25)


def test_few_entities_have_an_interval_by_bootstrap_or_the_rule_of_three():
    rng = np.random.default_rng(0)
    true = padded([[1, 2, 0, 3]] * 20)
    right = rng.random((20, 1)) < 0.7
    some = Outcome(np.where(right, true, 0).astype(np.int16), true, "")
    assert not has_interval(some)
    score = interval_of("entity_recall", [some])
    assert score.value == pytest.approx(right.mean())
    low, high = binomtest(int(right.sum()), 20).proportion_ci(method="wilson")
    assert (score.low, score.high) == pytest.approx((low, high), abs=0.07)
    none = Outcome(np.minimum(true, 0), true, "")
    upper = {metric: interval_of(metric, [none]).high for metric in ("entity_recall", "entity_f1")}
    assert upper == {"entity_recall": 3 / 40, "entity_f1": 3 / 20}
    assert interval_of("entity_recall", [none]).low == 0.0
    assert interval_of("word_accuracy", [none]).value == 0.25


@pytest.mark.parametrize("texts", [5, 60], ids=["bootstrap", "influences"])
def test_texts_of_a_document_count_as_one(texts):
    """Four copies of each text in a document of its own say no more than the texts do."""
    rng = np.random.default_rng(0)
    true = padded([[1, 2, 0, 3]] * texts)
    right = rng.random((texts, 1)) < 0.7
    once = Outcome(np.where(right, true, 0).astype(np.int16), true, "")
    labels, predicted = (np.tile(each, (4, 1)) for each in (true, once.predicted))
    documents = np.tile(np.arange(texts, dtype=np.int32), 4)
    for metric in ("entity_f1", "entity_recall", "word_accuracy"):
        copies = Outcome(predicted, labels, "", documents=documents)
        assert numbers(metric, copies) == pytest.approx(numbers(metric, once))
        assert has_interval(copies) == (texts == 60)
        expected = interval_of(metric, [once])
        assert expected.low < expected.value < expected.high
        assert interval_of(metric, [copies]).ends() == pytest.approx(expected.ends())
        alone = interval_of(metric, [Outcome(predicted, labels, "")])
        assert alone.high - alone.low < 0.6 * (expected.high - expected.low)
        two = joined([copies, copies])
        assert two.documents.tolist() == [*documents, *(documents + texts)]
        assert len(numbers(metric, two)) == 2 * texts
        assert joined([copies, replace(copies, documents=None)]).documents is None


@pytest.mark.parametrize(
    "labels",
    [np.array([0, 3]), np.array([0, -1]), np.zeros((2, 2), np.int8), np.zeros(3, np.int64)],
)
def test_logits_that_do_not_fit_the_labels_are_refused(labels):
    with pytest.raises(ValueError, match=r"logit"):
        outcome_of(np.zeros((2, 3)), labels, None)


def keep(runs, seed, outcome, logits, **notes):
    """A row with predictions in its folder."""
    metric = DEFAULTS[outcome.problem]
    row = new_row(seed=seed, cell_id=f"{seed:012}", status="ok", attempt=1, dev_metric=metric)
    row |= {"dev_score": float(numbers(metric, outcome).mean())}
    folder = cell_folder(runs, row.name, *row.row_key)
    folder.mkdir(parents=True)
    arrays = {"logits": np.asarray(logits), "labels": np.asarray(outcome.labels)}
    save_file(arrays, folder / "predictions.safetensors", metadata=notes)
    return row


def test_a_folders_notes_give_the_unit(tmp_path):
    outcome = of_numbers()
    logits = ((outcome.predicted - 900) / 250).astype(np.float32)[:, None]
    runs = tmp_path / "runs.csv"
    row = keep(runs, 0, outcome, logits, target_mean="900", target_deviation="250")
    predicted = kept_predictions(runs)([row])[""].predicted
    np.testing.assert_allclose(predicted, outcome.predicted, rtol=1e-6)
    keep(runs, 1, outcome, logits, target_mean="nothing", target_deviation="1")
    [folder] = (tmp_path / "runs").glob(f"*{1:012}*")
    assert read_folder(folder, "pearson") is None


def test_rows_of_a_run_are_joined_in_their_order(tmp_path):
    """The score of the folds of one run is that of all their predictions together."""
    runs = tmp_path / "runs.csv"
    folds = [of_classes(4, seed=seed) for seed in range(2)]
    rows = [
        keep(runs, seed, fold, fold.logits) | {"data_digest": f"fold{seed}"}
        for seed, fold in enumerate(folds)
    ]
    values_of = values_from(kept_predictions(runs))
    first, second = (values_of([row]) for row in rows)
    assert values_of(rows).tolist() == [*first, *second]
    both = kept_predictions(runs)([*reversed(rows)], logits=True)[""]
    assert both.labels.tolist() == [*folds[1].labels, *folds[0].labels]
    assert both.logits.shape == (2 * N, 4)
    mean = np.mean([numbers("macro_f1", fold).mean() for fold in folds])
    assert numbers("macro_f1", joined(folds)).mean() != pytest.approx(mean, abs=1e-6)
    assert values_of([*rows, rows[0] | {"cell_id": "0" * 12, "attempt": 9}]) is None
    with pytest.raises(ValueError, match="different kinds"):
        joined([folds[0], of_numbers()])


def test_metrics_belong_to_problems():
    assert {name: problem.metric for name, problem in PROBLEMS.items()} == DEFAULTS
    for problem, default in DEFAULTS.items():
        assert problem_of(default) == problem
        assert metrics_for(problem)[0] == default
        check_metric(default, problem)
    assert problem_of("overall") is None
    assert [name for name, metric in METRICS.items() if not metric.higher_is_better] == ["rmse"]
    with pytest.raises(ValueError, match=r"not a metric for multi-label; choose micro_f1, macro"):
        check_metric("rmse", "multi_label")
    with pytest.raises(ValueError, match=r"several parts; choose overall$"):
        check_metric("accuracy", None)


def test_a_race_has_numbers_of_settings_that_predict_no_entity():
    true = padded([[1, 2, 0, 3]] * 20)
    outcome = Outcome(np.minimum(true, 0), true, "")
    values_of = values_from(lambda _rows, logits=False: {"": outcome})
    row = new_row(status="ok", dev_metric="entity_f1")
    assert values_of([row]) is None
    assert values_of([row | {"race": "on"}]).tolist() == [0.0] * 20
