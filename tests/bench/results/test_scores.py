"""Scores of stored predictions, against scikit-learn, and rows scored by another metric."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.special import softmax
from scipy.stats import binomtest, spearmanr
from sklearn import metrics as library
from sklearn.preprocessing import label_binarize

from bench.analysis.groups import groups
from bench.common.errors import InputError
from bench.plan.metrics import DEFAULTS, METRICS, check_metric, metrics_for, problem_of
from bench.report.render import lead
from bench.results import predictions
from bench.results.facts import DataFacts
from bench.results.outcomes import Outcome, joined
from bench.results.predictions import kept_predictions, outcome_of, values_from
from bench.results.rescoring import majority_score, rescored
from bench.results.scores import has_interval, interval_of, numbers, score_of
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


def of_labels(count=9):
    rng = np.random.default_rng(0)
    labels = (rng.random((N, count)) < 0.3).astype(np.int8)
    return outcome_of(labels * 2 - 1.2 + rng.normal(size=(N, count)), labels, None)


def check_scores(problem, outcome, expected, rel=None):
    assert metrics_for(problem) == tuple(expected)
    scores = {metric: numbers(metric, outcome).mean() for metric in expected}
    assert scores == pytest.approx(expected, rel=rel, abs=1e-12)


@pytest.mark.parametrize(("number", "columns"), [(5, 5), (2, 2), (2, 1)])
def test_scores_of_classes_are_those_of_the_library(number, columns):
    outcome = of_classes(number, columns)
    labels, predicted, logits = outcome.labels, outcome.predicted, outcome.logits.astype(float)
    ranked = logits[:, -1] - (columns - 1) * logits[:, 0]
    ranked = ranked if number == 2 else softmax(logits, axis=1)
    each = label_binarize(labels, classes=range(number))
    check_scores("single_label", outcome, {
        "accuracy": library.accuracy_score(labels, predicted),
        "balanced_accuracy": library.balanced_accuracy_score(labels, predicted),
        "macro_f1": library.f1_score(labels, predicted, average="macro"),
        "weighted_f1": library.f1_score(labels, predicted, average="weighted"),
        "mcc": library.matthews_corrcoef(labels, predicted),
        "auroc": library.roc_auc_score(labels, ranked, multi_class="ovr"),
        "average_precision": library.average_precision_score(each, ranked),
    })  # fmt: skip


def test_scores_of_numbers_and_of_several_labels_are_those_of_the_library():
    outcome = of_numbers()
    labels, predicted = outcome.labels, outcome.predicted
    check_scores("regression", outcome, {
        "pearson": np.corrcoef(labels, predicted)[0, 1],
        "spearman": spearmanr(labels, predicted).statistic,
        "r2": library.r2_score(labels, predicted),
        "rmse": library.root_mean_squared_error(labels, predicted),
    }, rel=1e-9)  # fmt: skip
    outcome = of_labels()
    check_scores("multi_label", outcome, {
        f"{average}_f1": library.f1_score(outcome.labels, outcome.predicted, average=average)
        for average in ("micro", "macro")
    })  # fmt: skip


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
        ("auroc", outcome_of(np.zeros((3, 2)), np.ones(3, dtype=np.int64), None), "no examples"),
    ):
        with pytest.raises(ValueError, match=reason):
            numbers(metric, outcome)
    in_unit = numbers("spearman", of_numbers()).mean()
    assert numbers("spearman", values).mean() == pytest.approx(in_unit)


def test_an_interval_is_exact_where_there_is_a_formula_and_within_bounds():
    right = np.array([1.0] * 90 + [0.0] * 10)
    assert score_of("accuracy", [right]).low == pytest.approx(0.8256, abs=1e-3)
    labels = of_classes(3).labels
    score = score_of("macro_f1", [numbers("macro_f1", Outcome(labels, labels, ""))])
    assert score.low < score.value == score.high == 1.0
    error = numbers("rmse", of_numbers())
    assert score_of("rmse", [error]) == spread(error[None, :]).interval()
    assert score_of("rmse", [error, error + 50]).value == pytest.approx(error.mean() + 25)


def entities(texts):
    """Tags of texts of two entities, and predictions that have both of 70% of the texts."""
    true = padded([[1, 2, 0, 3]] * texts)
    right = np.random.default_rng(0).random((texts, 1)) < 0.7
    return true, np.where(right, true, 0).astype(np.int16), right.mean()


def test_few_entities_have_an_interval_by_bootstrap_or_the_rule_of_three():
    true, predicted, share = entities(20)
    some = Outcome(predicted, true, "")
    assert not has_interval(some)
    score = interval_of("entity_recall", [some])
    assert score.value == pytest.approx(share)
    low, high = binomtest(round(20 * share), 20).proportion_ci(method="wilson")
    assert (score.low, score.high) == pytest.approx((low, high), abs=0.07)
    none = Outcome(np.minimum(true, 0), true, "")
    upper = {metric: interval_of(metric, [none]).high for metric in ("entity_recall", "entity_f1")}
    assert upper == {"entity_recall": 3 / 40, "entity_f1": 3 / 20}
    assert interval_of("entity_recall", [none]).low == 0.0
    assert interval_of("word_accuracy", [none]).value == 0.25
    values_of = values_from(lambda _rows, logits=False: {"": none})
    row = new_row(status="ok", dev_metric="entity_f1")
    assert values_of([row]) is None
    assert values_of([row | {"race": "on"}]).tolist() == [0.0] * 20, "a race compares them"


@pytest.mark.parametrize("texts", [5, 60], ids=["bootstrap", "influences"])
def test_texts_of_a_document_count_as_one(texts):
    """Four copies of each text in a document of its own say no more than the texts do."""
    true, once_predicted, _ = entities(texts)
    once = Outcome(once_predicted, true, "")
    labels, predicted = (np.tile(each, (4, 1)) for each in (true, once_predicted))
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


@pytest.mark.parametrize("labels", [
    np.array([0, 3]), np.array([0, -1]), np.zeros((2, 2), np.int8), np.zeros(3, np.int64),
])  # fmt: skip
def test_logits_that_do_not_fit_the_labels_are_refused(labels):
    with pytest.raises(ValueError, match=r"logit"):
        outcome_of(np.zeros((2, 3)), labels, None)


def test_means_are_exact_and_so_is_the_spread_of_a_correlation_and_of_a_mean_over_parts():
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 4000))
    y = 0.6 * x + 0.8 * noise
    values, correlation = predictions.values_for("pearson", x[:, None], y), np.corrcoef(x, y)[0, 1]
    assert values.mean() == pytest.approx(correlation, abs=1e-12)
    assert values.std() == pytest.approx(1 - correlation**2, rel=0.1), "as of Fisher's z"

    parts = [rng.random(30), (rng.random(400) < 0.3).astype(float), rng.normal(2.0, 1.0, 90)]
    values = predictions.mean_of_parts(parts)
    assert len(values) == 520
    assert values.mean() == pytest.approx(np.mean([part.mean() for part in parts]))
    expected = sum(part.var() / len(part) for part in parts) / 9
    assert values.var() / len(values) == pytest.approx(expected)
    with pytest.raises(ValueError, match="no part"):
        predictions.mean_of_parts([])


def keep(runs, seed, outcome, logits, **notes):
    metric = DEFAULTS[outcome.problem]
    row = new_row(seed=seed, cell_id=f"{seed:012}", status="ok", attempt=1, dev_metric=metric)
    row |= {"dev_score": float(numbers(metric, outcome).mean()), "data_digest": f"fold{seed}"}
    folder = cell_folder(runs, row.name, *row.row_key)
    folder.mkdir(parents=True)
    arrays = {"logits": np.asarray(logits), "labels": np.asarray(outcome.labels)}
    save_file(arrays, folder / "predictions.safetensors", metadata=notes)
    return row, folder


def test_a_folders_notes_give_the_unit_and_what_is_broken_is_unknown(tmp_path):
    outcome, runs = of_numbers(), tmp_path / "runs.csv"
    logits = ((outcome.predicted - 900) / 250).astype(np.float32)[:, None]
    row, folder = keep(runs, 0, outcome, logits, target_mean="900", target_deviation="250")
    known = kept_predictions(runs)([row])
    np.testing.assert_allclose(known[""].predicted, outcome.predicted, rtol=1e-6)
    sources = [predictions.no_predictions, lambda rows, logits=False: known]
    assert predictions.first_of(sources)([row]) == known
    with pytest.raises(InputError, match="can't be the name of a file or folder"):
        kept_predictions(runs)([row | {"cell_id": "../../etc"}])
    (folder / "predictions.safetensors").write_bytes(b"no tensors")
    assert kept_predictions(runs)([row]) is None
    assert kept_predictions(tmp_path / "other.csv") is predictions.no_predictions
    _, folder = keep(runs, 1, outcome, logits, target_mean="nothing", target_deviation="1")
    assert predictions.read_folder(folder, "pearson") is None


def test_rows_of_a_run_are_joined_in_their_order_from_several_files(tmp_path):
    files = [tmp_path / name for name in ("a.csv", "b.csv")]
    folds = [of_classes(4, seed=seed) for seed in range(3)]
    rows = [keep(files[seed % 2], seed, fold, fold.logits)[0] for seed, fold in enumerate(folds)]
    own = kept_predictions(files[0])
    every = predictions.first_of([own, kept_predictions(files[1])])
    one, two, three = (values_from(every)([row]) for row in rows)
    assert values_from(every)(rows).tolist() == [*one, *two, *three]
    assert own(rows) is predictions.first_of([own])(rows) is None
    both = own([rows[2], rows[0]], logits=True)[""]
    assert both.labels.tolist() == [*folds[2].labels, *folds[0].labels]
    assert both.logits.shape == (2 * N, 4)
    mean = np.mean([numbers("macro_f1", fold).mean() for fold in folds])
    assert numbers("macro_f1", joined(folds)).mean() != pytest.approx(mean, abs=1e-6)
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


CLASSES = of_classes(3)
COUNTS = zip((20, 50, 20), np.bincount(CLASSES.labels).tolist(), strict=True)
FACTS = DataFacts(
    task="movies", problem="single_label", train=90, dev=N, classes=("a", "b", "c"),
    class_counts=dict(zip("abc", COUNTS, strict=True)),
)  # fmt: skip


def scored(**values):
    known = {"status": "ok", "dev_metric": "accuracy", "dev_score": 0.5, "majority_score": 0.3}
    return new_row(**(known | values))


def of_seeds(rows, *, logits=False):
    without = Outcome(CLASSES.predicted, CLASSES.labels, "")
    return None if rows[0].seed in (1, 2) else {"": CLASSES if logits else without}


def test_a_row_that_is_scored_otherwise_has_the_interval_and_majority_of_the_metric():
    row, notes, ones = scored(flags="not_learned"), [], np.ones(N, dtype=int)
    [other] = rescored([row], "macro_f1", of_seeds, {row.data_digest: FACTS}, notes.append)
    expected = library.f1_score(CLASSES.labels, CLASSES.predicted, average="macro")
    assert other.dev_metric == "macro_f1"
    assert other.dev_score == pytest.approx(expected)
    assert other.dev_ci_low < expected < other.dev_ci_high
    of_majority = library.f1_score(CLASSES.labels, ones, average="macro")
    assert other.majority_score == pytest.approx(of_majority)
    assert other.flags == "not_learned", "a flag is of the row's own metric"
    assert not notes
    [without] = rescored([row], "macro_f1", of_seeds, {}, notes.append)
    assert without.majority_score is None
    expected = library.balanced_accuracy_score(CLASSES.labels, ones)
    assert majority_score("balanced_accuracy", CLASSES, FACTS) == pytest.approx(expected)
    assert majority_score("auroc", CLASSES, FACTS) == pytest.approx(0.5)
    several = of_labels(2)
    counts = FACTS.model_copy(update={"class_counts": {"a": (60, 0), "b": (10, 0)}})
    expected = library.f1_score(several.labels, np.tile([1, 0], (N, 1)), average="micro")
    assert majority_score("micro_f1", several, counts) == pytest.approx(expected)
    assert majority_score("rmse", of_numbers(), FACTS) is None


def test_rows_without_predictions_of_other_problems_or_of_a_search_are_noted_or_stay():
    rows, notes = [scored(seed=seed) for seed in range(4)], []
    rows.append(scored(seed=5, status="oom", dev_metric=None, dev_score=None))
    result = rescored(rows, "auroc", of_seeds, {}, notes.append)
    assert [row.dev_score is None for row in result] == [False, True, True, False, True]
    assert [row.dev_ci_low is None for row in result[:4]] == [False, True, True, False]
    rows = [scored(), scored(task="movies-rating", dev_metric="pearson"),
            scored(learning_rate_source="candidate")]  # fmt: skip
    result = rescored(rows, "mcc", of_seeds, {}, notes.append)
    assert [row.dev_metric for row in result] == ["mcc", "pearson", "accuracy"]
    assert result[1:] == rows[1:]
    assert notes == [
        "--metric auroc: 2 rows have no score: it is not defined for the predictions, or needs the "
        "logits in the cells' folders",
        "--metric mcc: 1 row is of other problems, by their own metric",
    ]
    with pytest.raises(InputError) as refused:
        rescored(rows[1:2], "macro_f1", of_seeds, {})
    assert str(refused.value) == (
        "--metric macro_f1: not a metric for regression; choose pearson, spearman, r2, rmse"
    )
    assert rescored([new_row()], "macro_f1", of_seeds, {}) == [new_row()]


@pytest.mark.parametrize(("metric", "fewest", "warns"), [
    ("macro_f1", 14, True), ("mcc", 3, True), ("macro_f1", 15, False), ("weighted_f1", 3, False),
    ("macro_f1", 0, False),
])  # fmt: skip
def test_a_rare_class_is_warned_of_where_the_metric_depends_on_it(metric, fewest, warns):
    row, notes = scored(), []
    counts = {"common": (20, 80), "rare": (20, fewest)}
    facts = {row.data_digest: FACTS.model_copy(update={"class_counts": counts})}
    [other] = rescored([row], metric, of_seeds, facts, notes.append)
    assert [f"dev has {fewest} of class 'rare'" in note for note in notes] == [True] * warns
    [group] = groups([other])
    assert ("Warning: dev has" in " ".join(lead(group, facts))) is warns
