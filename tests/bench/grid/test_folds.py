"""Cross-validations: from the command line to the report, and scores and costs of their rows."""

import math
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from bench.analysis.groups import groups
from bench.analysis.verdicts import best_by_score, compare, score_spread
from bench.common.errors import InputError
from bench.plan.planning import plan
from bench.report.render import report
from bench.results.outcomes import Outcome, joined, no_values
from bench.results.predictions import kept_predictions, outcome_of, values_from
from bench.results.rescoring import rescored
from bench.results.scores import numbers as outcome_numbers
from bench.results.scores import score_of
from bench.results.store import cell_folder
from bench.stats.intervals import mean_t, paired_ratio, wilson
from bench.studies.ensemble.members import find
from minbert.data.tasks import Folds, Sizes, load_data
from tests.bench.conftest import narrow
from tests.bench.grid.test_runs import TIME, one, run
from tests.bench.grids import GridRuns
from tests.bench.synthetic_rows import HERE, as_results, cell
from tests.cs224n import write_folder

GRID = """
settings = { task = "sst", folds = 3, epochs = 1, max_steps = 4, batch_size = 8 }
cells = [{ mode = ["full", "head"] }]
"""


def test_every_fold_of_every_setting_is_a_cell_and_folds_follow_each_other(
    minilm, tmp_path, monkeypatch
):
    place = GridRuns(tmp_path, narrow(1, tmp_path / "lively", minilm, 0.3), workers_here=True)
    data = write_folder(tmp_path / "data", ("sst",), count=40)
    (tmp_path / "mine.toml").write_text(GRID)

    def command(*flags):
        done = place.finish("--data", str(data), *flags, file="mine.toml")
        assert "dev has only" not in done.stderr
        return done.stdout

    assert "2 cells: 2 ok" in command("--select", "fold=0")
    assert "6 cells: 6 ok" in command()
    assert "4 cells: 0 to run, 4 not" in command("--dry-run", "--select", "fold=1,2")
    rows = place.rows()
    assert [row["fold"] for row in rows] == [0, 0, 1, 1, 2, 2]
    assert {(row["folds"], row.attempt) for row in rows} == {(3, 1)}
    assert len({row.data_digest for row in rows}) == 1
    names = {f"{mode}-fp32-s0-f{fold}" for mode in ("full", "head") for fold in range(3)}
    assert {row.name for row in rows} == names

    # every example is predicted once, and the score is that of all predictions
    [group] = groups(rows, (), values_from(kept_predictions(place.csv)))
    assert (len(group.settings), group.folds, group.seeds) == (2, 3, 1)
    folds = Folds(load_data("sst", data), 3)
    for setting in group.settings:
        right = []
        for row in [row for row in rows if row.mode == setting.mode]:
            folder = cell_folder(place.csv, row.name, *row.row_key)
            kept = load_file(folder / "predictions.safetensors")
            labels, expected = kept["labels"], folds.fold(row.fold)
            assert labels.tolist() == expected.dev.labels.tolist()
            majority = np.bincount(expected.train.labels).argmax()
            assert row.majority_score == pytest.approx((labels == majority).mean())
            right += (kept["logits"].argmax(axis=1) == labels).tolist()
        estimate = setting.estimate("dev_score")
        assert estimate.value == pytest.approx(np.mean(right), abs=1e-12)
        assert estimate.ends() == pytest.approx(wilson(sum(right), 60))
        assert setting.values[0].tolist() == right
    text = (place.reports / "report.md").read_text()
    for line in ("6 of 6 cells ended ok, 1 seed of 3 folds for each setting",
                 "A score is that of the predictions on all 3 folds together.",
                 "--task sst --folds 3 --epochs 1"):  # fmt: skip
        assert line in text
    with pytest.raises(InputError, match="cells of a cross-validation, each of which predicts one"):
        find([place.csv])

    # a length for folds is that of all examples
    def find_length(data, *_):
        raise InputError(f"{[*data.sizes.values()]}")

    monkeypatch.setattr("bench.grid.inputs.find_length", find_length)
    flags = ("--task", "sst", "--data", str(data), "--folds", "3", "--max-length", "auto")
    assert str([Sizes(60, 0)]) in place.run(*flags).stderr


def fold_row(fold, mode="full", folds=3, **more):
    return run(mode, settings={"folds": folds, "fold": fold}, **more)


def numbers(run):
    """Numbers of a run whose folds have 20 examples each, with the scores in the rows."""
    return np.concatenate([np.arange(20) < round(20 * row.dev_score) for row in run]).astype(float)


def setting_of(scores, values_of=numbers, **more):
    rows = [fold_row(fold, dev_score=score, **more) for fold, score in enumerate(scores)]
    return one(rows, values_of).settings[0]


def test_a_score_takes_all_folds_of_a_seed_and_of_one_version_if_it_has_all():
    rows = [fold_row(0), fold_row(2), fold_row(1) | {"status": "oom", "dev_score": None}]
    setting = one(rows, numbers).settings[0]
    assert setting.estimate("dev_score") is None
    assert setting.folds_done == "2 of 3 folds"
    assert setting.estimate(TIME) is not None, "costs are those of the folds that ran"
    outcome = {"": Outcome(numbers(rows[:2]) > 0, None, "examples")}
    results = as_results(rows, predictions_of=lambda *_, **__: outcome)
    assert "No setting has a dev score of all 3 folds yet." in str(report(results))
    setting = setting_of([0.5, 0.6, 0.7], no_values, dev_ci_low=0.4, dev_ci_high=0.8)
    score = setting.estimate("dev_score")
    assert setting.scores == {0: pytest.approx(0.6)}
    assert score.value == pytest.approx(0.6)
    assert score.low == pytest.approx(0.6 - math.hypot(0.1, 0.2, 0.3) / 3)
    for wrong in ([0, 1, 3], [0, 1, 1], [0, 1]):
        assert one([*map(fold_row, wrong)], numbers).settings[0].estimate("dev_score") is None
    many = [fold_row(fold, folds=10**9) for fold in range(2)]
    assert one(many, numbers).settings[0].estimate("dev_score") is None
    seeds = ((seed, fold) for seed in range(2) for fold in range(3))
    rows = [fold_row(fold, seed=seed, dev_score=0.5 + 0.1 * seed) for seed, fold in seeds]
    group = one(rows, numbers)
    assert group.seeds == 2
    assert group.settings[0].scores == {0: pytest.approx(0.5), 1: pytest.approx(0.6)}
    spread = score_spread(group.settings[0], group.settings[0])
    assert (spread.seeds, spread.examples) == (2, 60)
    lacking = one(rows[:-1], numbers).settings[0]
    assert list(lacking.scores) == [0]
    old = [fold_row(fold, dev_score=0.5) for fold in range(2)]
    new = [fold_row(fold, dev_score=0.7, code_version="0.2.0") for fold in (1, 2)]
    [run] = one([*old, *new], numbers).settings[0].runs[0]
    assert [row.dev_score for row in run] == [0.5, 0.7, 0.7]
    whole = [*old, fold_row(2, dev_score=0.5), *new]
    [run] = one(whole, numbers).settings[0].runs[0]
    assert [row.dev_score for row in run] == [0.5, 0.5, 0.5]
    repeated = [fold_row(fold, dev_score=0.5, repeat=n) for fold in range(3) for n in (1, 2)]
    assert [len(run) for run in one(repeated, numbers).settings[0].runs[0]] == [3, 3]


def test_a_setting_learns_by_all_folds_and_costs_are_paired_by_fold():
    each = {"flags": "not_learned", "majority_score": 0.4}
    for scores, more, learned in (
        ([0.6, 0.6, 0.6], each, True), ([0.5, 0.4, 0.5], each, False),
        ([0.6, 0.6, 0.1], each, False), ([0.6, 0.6], each, False),
        ([0.6, 0.6], {"majority_score": 0.4}, True),
    ):  # fmt: skip
        assert setting_of(scores, **more).learned is learned, scores
    rows = [fold_row(n, "head", dev_score=0.6, **each) for n in range(3)]
    rows += [fold_row(n, dev_score=0.2, **each) for n in range(3)]
    assert best_by_score(one(rows, numbers)).mode == "head"
    for metric, score in (("rmse", 0.2), ("mcc", 0.1)):
        flagged = [
            [fold_row(n, dev_metric=metric, dev_score=score, majority_score=None,
                      flags="not_learned" if n < count else None) for n in range(3)]
            for count in range(4)
        ]  # fmt: skip
        learned = [one(rows, numbers).settings[0].learned for rows in flagged]
        assert learned == [True, True, False, False], "unless most folds are flagged"

    full, head = (90.0, 100.0, 120.0), (30.0, 40.0, 50.0)
    rows = [fold_row(n, time=t) for n, t in enumerate(full)]
    rows += [fold_row(n, "head", time=t) for n, t in enumerate(head)]
    group = one(rows, numbers)
    base, other = group.settings
    assert set(base.by_run(TIME)) == {(0, fold, 1, "0.1.0") for fold in range(3)}
    assert base.estimate(TIME) == mean_t(full)
    ratio = compare(group, "time", other, base)
    assert ratio == paired_ratio(dict(enumerate(head)), dict(enumerate(full)))
    cells = [cell("full", None, None, "off", folds=3, fold=fold) for fold in range(3)]
    rows = [fold_row(fold) | {"conditions_id": "there"} for fold in range(3)]
    planned = plan(cells, rows, HERE | {"conditions_id": "here"})
    assert [item.action for item in planned] == ["run", "done", "done"]
    both = groups([fold_row(0) | {"conditions_id": "here"}, *rows])
    [group] = [group for group in both if group.first.conditions_id == "here"]
    [setting] = group.settings
    assert [row.fold for row in setting.elsewhere] == [1, 2]
    assert (list(setting.runs), len(setting.ok), group.seeds) == ([0], 1, 1)


def outcomes_of_folds(run, *, logits=False):
    """Predictions of 20 examples in each fold; in fold 1 all are of one class."""
    rng = np.random.default_rng([row.fold or 0 for row in run])
    found = []
    for row in run:
        labels = np.zeros(20, dtype=np.int64) if row.fold == 1 else np.arange(20) % 2
        right = np.eye(2)[labels] + rng.normal(size=(20, 2))
        found.append(outcome_of(right, labels, None))
    outcome = joined(found)
    return {"": outcome if logits else replace(outcome, logits=None)}


def test_a_metric_that_one_fold_lacks_is_that_of_all_predictions():
    rows = [fold_row(fold) for fold in range(3)]
    notes: list[str] = []
    by_auroc = rescored(rows, "auroc", outcomes_of_folds, {}, notes.append)
    assert [row.has_score for row in by_auroc] == [True, False, True]
    assert notes[0].startswith("--metric auroc: 1 row has no score: it is not defined")
    group = one(by_auroc, values_from(outcomes_of_folds))
    of_all = outcome_numbers("auroc", outcomes_of_folds(rows, logits=True)[""])
    assert group.settings[0].estimate("dev_score") == score_of("auroc", [of_all])
    assert group.settings[0].learned
    [without] = one(by_auroc).settings
    assert (without.estimate("dev_score"), without.folds_done) == (None, "2 of 3 folds")
