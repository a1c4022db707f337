"""Cross-validations, and several runs of a cell: repeats, versions, scores from elsewhere."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from bench.analysis.groups import groups
from bench.analysis.verdicts import best_by_score, compare, score_spread
from bench.common.errors import InputError
from bench.plan import gridfile
from bench.plan.planning import Resolved, expand, plan
from bench.plan.selection import parse_selection, select
from bench.report.__main__ import main
from bench.report.render import report
from bench.report.text import no_interval
from bench.results.outcomes import Outcome, joined, no_values
from bench.results.predictions import kept_predictions, outcome_of, values_from
from bench.results.rescoring import rescored
from bench.results.scores import numbers as outcome_numbers
from bench.results.scores import score_of
from bench.results.store import Store, cell_folder
from bench.stats.intervals import Std, mean_t, paired_ratio, ratio, wilson
from bench.studies.ensemble.members import find
from minbert.data.tasks import Folds, Sizes, load_data
from tests.bench.conftest import narrow
from tests.bench.grids import GridRuns
from tests.bench.synthetic_rows import (
    HERE,
    as_results,
    cell,
    planned_row,
    result_row,
    synthetic_rows,
)
from tests.cs224n import write_folder

SENTENCES = Path(__file__).with_name("several-runs.txt")
TIME = "ms_per_1k_tokens"


def run(mode="full", time=100.0, **more):
    """A run of a cell, of seed 0 and repeat 1 unless `more` says otherwise."""
    axes = (1, "attn-only") if mode == "lora" else (None, None)
    settings = more.pop("settings", {})
    of = cell(mode, *axes, "off", more.pop("seed", 0), **settings)
    row = result_row(of, **{"repeat": 1, **more})
    times = {TIME: time, f"{TIME}_ci_low": time * 0.999, f"{TIME}_ci_high": time * 1.001}
    return row | times | {name: more[name] for name in times if name in more}


def one(rows, values_of=no_values):
    [group] = groups(rows, (), values_of)
    return group


def first(rows, values_of=no_values):
    return one(rows, values_of).settings[0]


def half_width(setting, column=TIME):
    ends = setting.estimate(column).ends()
    return math.log(ends[1] / ends[0]) / 2


def test_costs_take_every_repeat_and_version_and_scores_one_value_for_each_seed():
    rows = [
        run(time=90.0, dev_score=0.5, peak_rss_mib=900.0),
        run(time=100.0, dev_score=0.5, peak_rss_mib=1000.0, repeat=2),
        run(time=110.0, dev_score=0.5, peak_rss_mib=1100.0, code_version="0.2.0"),
        run(time=100.0, dev_score=0.6, peak_rss_mib=1000.0, seed=1),
    ]
    setting = first(rows)
    assert sorted(setting.by_run(TIME).values()) == [90.0, 100.0, 100.0, 110.0]
    assert setting.estimate(TIME).value == pytest.approx(100.0)
    assert setting.estimate("peak_rss_mib").value == pytest.approx(1000.0)
    assert setting.estimate("peak_rss_mib").low is not None
    assert setting.scores == {0: 0.5, 1: 0.6}
    assert setting.estimate("dev_score").value == pytest.approx(0.55)
    group = one(rows)
    assert (group.seeds, group.ok) == (2, 4)


def test_repeats_of_one_seed_have_the_score_of_one_training():
    rows = [run(repeat=n, dev_score=0.5, dev_ci_low=0.47, dev_ci_high=0.53) for n in (1, 2)]
    assert first(rows).estimate("dev_score").ends() == pytest.approx((0.47, 0.53))
    group = one([*rows, run("head", dev_score=0.4)], lambda rows: np.full(4, rows[0]["dev_score"]))
    assert list(group.settings[0].values) == [0]
    spread = score_spread(*group.settings)
    assert (spread.seeds, spread.of_seeds) == (1, None)
    differently_long = first(rows, lambda rows: np.ones(rows[0]["repeat"]))
    assert differently_long.values == {}


def test_the_time_of_one_process_has_no_interval_unless_others_show_how_processes_differ():
    alone = one([run(), run("head")])
    assert alone.between(TIME) is None
    assert alone.settings[0].estimate(TIME).ends() is None
    ratio_alone = compare(alone, "time", *alone.settings)
    assert ratio_alone.value == 1.0
    assert ratio_alone.ends() is None
    rows = [run(time=100 * math.exp(x), repeat=n) for n, x in enumerate((-0.02, 0.0, 0.02), 1)]
    group = one([*rows, run("head")])
    repeated, single = group.settings
    assert group.between(TIME) == Std(pytest.approx(0.02), 2)
    assert half_width(single) == pytest.approx(4.302653 * 0.02, rel=1e-6)
    assert half_width(repeated) == pytest.approx(4.302653 * 0.02 / math.sqrt(3), rel=1e-6)
    assert first(rows).estimate("peak_rss_mib").ends() is not None
    assert group.settings[1].estimate("peak_rss_mib").ends() is None, "memory of one run"

    seeds = [run(time=row[TIME], seed=n, peak_rss_mib=1000.0 + n) for n, row in enumerate(rows)]
    group = one([*seeds, run("head")])
    assert half_width(group.settings[1]) == pytest.approx(4.302653 * 0.02, rel=1e-6)
    assert group.between("peak_rss_mib") is None, "the seed determines the largest batch"


def repeats(mode, gap, own=0.001, **settings):
    """Three runs of a setting, a gap between their logarithms, each with an interval of its own."""
    times = [100 * math.exp(of) for of in (-gap, 0.0, gap)]
    ends = [{f"{TIME}_ci_low": t * math.exp(-own), f"{TIME}_ci_high": t * math.exp(own)}
            for t in times]  # fmt: skip
    return [
        run(mode, time, repeat=n, settings=settings, **ends[n - 1])
        for n, time in enumerate(times, 1)
    ]


@pytest.mark.parametrize(
    ("gap", "own", "width"),
    [
        (0.2, 0.001, 4.302653 * 0.2 / math.sqrt(3)),  # less steady than the others
        (0.015, 0.001, None),  # that may be by chance
        (0.01, 0.3, 0.3 / math.sqrt(3)),  # no better than each is known
    ],
)
def test_repeats_have_the_interval_of_all_settings_or_of_their_own_scatter(gap, own, width):
    rates = (1e-5, 2e-5, 3e-5, 4e-5)
    steady = [row for rate in rates for row in repeats("full", 0.01, learning_rate=rate)]
    group = one([*steady, *repeats("head", gap, own)])
    pooled = group.between(TIME).half_width(3)
    assert half_width(group.settings[-1]) == pytest.approx(width or pooled, rel=1e-6)
    assert half_width(group.settings[0]) == pytest.approx(pooled, rel=1e-6)
    assert width is None or pooled < width


def test_costs_are_paired_over_runs_that_both_have():
    rounds = [1.0, 1.5, 1.2, 0.9]
    rows = [run(time=100 * slow, repeat=n) for n, slow in enumerate(rounds, 1)]
    rows += [run("head", time=50 * slow, repeat=n) for n, slow in enumerate(rounds, 1)]
    full, head = one(rows).settings
    gap = compare(one(rows), "time", head, full)
    assert gap.value == pytest.approx(0.5)
    assert gap.high - gap.low < 1e-6
    moved = [row | {"code_version": "0.2.0"} if row["mode"] == "head" else row for row in rows]
    group = one(moved)
    full, head = group.settings
    assert compare(group, "time", head, full) == ratio(head.estimate(TIME), full.estimate(TIME))
    both = [*moved, *rows[-3:]]
    gap = compare(one(both), "time", *one(both).settings[::-1])
    assert gap.high - gap.low < 1e-6, "over the runs of the version that both have"


def test_what_versions_differ_by_is_not_hidden_by_pairs_across_them():
    newer = {"code_version": "0.2.0"}
    group = one([run(), run(time=200.0, **newer), run("head")])
    assert group.between(TIME) == Std(pytest.approx(math.log(2) / math.sqrt(2)), 1)
    assert half_width(group.settings[0]) == pytest.approx(12.7062 * math.log(2) / 2, rel=1e-4)
    rows = []
    for n in (1, 2, 3):
        rows += [run(repeat=n), run("head", time=120.0, repeat=n, **newer)]
        rows += [run("lora", repeat=n), run("lora", time=120.0, repeat=n, **newer)]
    group = one(rows)
    full, head, _ = group.settings
    gap = compare(group, "time", head, full)
    assert gap.value == pytest.approx(1.2)
    assert math.log(gap.high / gap.value) > 0.1


def test_two_repeats_of_one_seed_are_compared_by_what_all_repeats_show():
    """Two have one degree of freedom: their own spread would be of no use."""
    modes = ((mode, n) for mode in ("full", "head", "lora") for n in (1, 2))
    rows = [run(mode, 100 * math.exp(0.02 * (-1) ** n), repeat=n) for mode, n in modes]
    group = one(rows)
    gap = compare(group, "time", group.settings[1], group.settings[0])
    half = 3.182446 * group.between(TIME).value
    assert math.log(gap.high / gap.value) == pytest.approx(half, rel=1e-6)


def test_planned_repeats_and_versions_without_a_row_are_not_run():
    planned = [planned_row(cell("full", None, None, "off")) | {"repeat": n} for n in (1, 2)]
    [group] = groups([run()], planned)
    assert [row["status"] for row in group.ordered] == ["ok", None]
    newer = {"code_version": "0.2.0"}
    planned = [planned_row(cell(mode, None, None, "off")) | newer for mode in ("full", "head")]
    [group] = groups([run(), run("head", **newer)], planned)
    assert [row["status"] for row in group.ordered] == ["ok", None, "ok"]
    failed = run(status="crashed", attempt=2, **newer)
    [group] = groups([run(), failed, run("head", **newer)], planned)
    assert [row["status"] for row in group.ordered] == ["ok", "ok"], "it was run, and failed"


def away(row, machine="EPYC, 64 cores", **more):
    there = {"conditions_id": machine[:4], "machine": machine, "finished_at": "2026-01-01"}
    return row | there | more


def test_scores_come_from_elsewhere_for_seeds_that_have_none_and_costs_never_do():
    here = [run(dev_score=0.5), run("head", dev_score=0.4)]
    there = [away(run(seed=seed, time=1.0, dev_score=0.6, peak_rss_mib=1.0)) for seed in (0, 1, 2)]
    group, other = groups([*here, *there], (), lambda rows: np.full(4, rows[0]["dev_score"]))
    full, head = group.settings
    assert full.scores == {0: 0.5, 1: 0.6, 2: 0.6}
    assert full.values.keys() == {0, 1, 2}
    assert head.scores == {0: 0.4}
    assert full.by_run(TIME) == {(0, 0, 1, "0.1.0"): 100.0}
    assert len(full.ok) == 1
    assert other.settings[0].scores == {0: 0.6, 1: 0.6, 2: 0.6}


def test_scores_of_other_software_or_settings_are_not_taken_and_the_first_machine_lends_its():
    for more in (
        {"torch_version": "9"}, {"device": "cuda:0"}, {"tf32": "on"}, {"batch_size": 64},
        {"status": "invalid"}, {"dev_score": None}, {"frozen_dtype": "bf16"},
        {"learning_rate": 1.0}, {"learning_rate_source": "candidate"},
    ):  # fmt: skip
        group = groups([run(), away(run(seed=1), **more)])[0]
        assert group.settings[0].scores.keys() == {0}, more
    rows = [run(), away(run(seed=1, dev_score=0.7)), away(run(seed=1, dev_score=0.8), "ARM 8")]
    [row] = groups(rows)[0].settings[0].elsewhere
    assert len(groups(rows)) == 3
    assert row["dev_score"] in (0.7, 0.8)


def lines_of(rows):
    facts = report(as_results(rows))
    lines = [*facts["lead"], facts["cells_heading"], facts["failures_heading"]]
    lines += [line for one in facts["sections"] for line in (one.heading, *one.lines)]
    return lines + [row[0] for row in facts["failures"].rows[:1]]


def test_a_report_says_what_its_runs_are():
    """Of other rows, the lines that two cells of one run do not have."""
    cells = [run(mode, predicted_peak_mib=1.0, predicted_s=1.0) for mode in ("full", "head")]
    full, head = cells
    left_out = {"status": "skipped", "message": "left out: no time"}
    others = {
        "repeats": [*cells, *(row | {"repeat": 2, TIME: 106.0} for row in cells)],
        "versions": [*cells, full | {"code_version": "0.2.0"}],
        "seeds": [*cells, *(run(mode, seed=1) for mode in ("full", "head"))],
        "three repeats and one": [*cells, full | {"repeat": 2}, full | {"repeat": 3}],
        "repeats that were left out": [run(repeat=n, **left_out) for n in (1, 2, 3)],
        "cells that were left out": [run(seed=n, **left_out) for n in (1, 2, 3)],
        "from elsewhere": [*cells, away(run(seed=1)), away(run("head", seed=1))],
        "repeats from elsewhere": [*cells, *(away(run(seed=1, repeat=n)) for n in (1, 2, 3))],
        "cut texts": [row | {"texts_cut": 1234, "tokens_cut": 0.0123} for row in cells],
        "nothing cut": [row | {"texts_cut": 0, "tokens_cut": 0.0} for row in cells],
        "emulated bf16": [full | {"flags": "emulated_bf16"}, head],
    }
    lines = ["# cells", *(usual := lines_of(cells))]
    for name, rows in others.items():
        lines += ["", f"# {name}", *(line for line in lines_of(rows) if line not in usual)]
    assert no_interval(1, 2) == "too few runs for an interval"
    assert "\n".join([*lines, ""]) == SENTENCES.read_text("utf-8")


@pytest.mark.usefixtures("undrawn")
def test_a_version_of_the_code_can_be_chosen(tmp_path):
    runs, store = tmp_path / "runs.csv", Store(tmp_path / "runs.csv")
    for row in synthetic_rows(3, failures=False):
        store.append(row | {"repeat": 1}, row | {"repeat": 1, "code_version": "0.2.0"})
    arguments = ["--runs", str(runs), "--reports", str(tmp_path / "out"), "--code-version"]
    done = CliRunner().invoke(main, [*arguments, "9"], standalone_mode=False)
    line = "--code-version: no row is of '9'; there are 3 of 0.1.0, 3 of 0.2.0"
    assert str(done.exception) == line
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(main, [*arguments, "0.2.0"], standalone_mode=False)
    assert done.exception is None, done.exception
    page = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "Only rows of code version 0.2.0: 3 rows of others left out." in page
    assert "3 of 3 cells ended ok" in page
    assert "--code-version 0.2.0" in page


GRID = """
settings = { task = "sst", folds = 3, epochs = 1, max_steps = 4, batch_size = 8 }
cells = [{ mode = ["full", "head"] }]
"""


def test_every_fold_of_every_setting_is_a_cell_and_folds_follow_each_other(
    minilm, tmp_path, monkeypatch
):
    """By a cross-validation of two settings, of which fold 0 ran first."""
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


def cells_of(**settings):
    loaded = gridfile.load("smoke")
    changed = loaded.settings.model_copy(update=settings)
    resolved = Resolved("minilm", "m" * 16, "mean", "d" * 16, "bf16", "grid")
    return expand(loaded.model_copy(update={"settings": changed}), resolved)


def test_folds_multiply_cells_within_a_seed():
    plain, folded = cells_of(seeds=2), cells_of(seeds=2, folds=3)
    assert len(folded) == 3 * len(plain)
    each = [(seed, fold) for seed in range(2) for fold in range(3) for _ in range(len(plain) // 2)]
    assert [(one.seed, one.fold) for one in folded] == each
    assert {(one.folds, one.fold) for one in plain} == {(None, None)}
    assert not {one.cell_id for one in plain} & {one.cell_id for one in folded}
    chosen = select(folded, parse_selection("fold=0,2 seed=1"))
    assert {(one.seed, one.fold) for one in chosen} == {(1, 0), (1, 2)}
    many = '[settings]\nfolds = 1000\nseeds = 200\n[[cells]]\nmode = ["full"]'
    with pytest.raises(InputError, match="cells with its seeds, folds; 100,000 are the most"):
        gridfile.parse(many, "x.toml", "x")


def test_the_first_fold_runs_here_if_another_machine_has_all_scores():
    cells = [cell("full", None, None, "off", folds=3, fold=fold) for fold in range(3)]
    rows = [fold_row(fold) | {"conditions_id": "there"} for fold in range(3)]
    planned = plan(cells, rows, HERE | {"conditions_id": "here"})
    assert [item.action for item in planned] == ["run", "done", "done"]
    both = groups([fold_row(0) | {"conditions_id": "here"}, *rows])
    [group] = [group for group in both if group.first.conditions_id == "here"]
    [setting] = group.settings
    assert [row.fold for row in setting.elsewhere] == [1, 2]
    assert (list(setting.runs), len(setting.ok), group.seeds) == ([0], 1, 1)


def fold_row(fold, mode="full", folds=3, **more):
    return run(mode, settings={"folds": folds, "fold": fold}, **more)


def numbers(run):
    """Numbers of a run whose folds have 20 examples each, with the scores in the rows."""
    return np.concatenate([np.arange(20) < round(20 * row.dev_score) for row in run]).astype(float)


def setting_of(scores, values_of=numbers, **more):
    rows = [fold_row(fold, dev_score=score, **more) for fold, score in enumerate(scores)]
    return one(rows, values_of).settings[0]


def test_the_score_of_folds_takes_all_of_them_and_without_predictions_it_is_their_mean():
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


def test_several_seeds_of_folds_vary_by_seed_and_example():
    seeds = ((seed, fold) for seed in range(2) for fold in range(3))
    rows = [fold_row(fold, seed=seed, dev_score=0.5 + 0.1 * seed) for seed, fold in seeds]
    group = one(rows, numbers)
    assert group.seeds == 2
    assert group.settings[0].scores == {0: pytest.approx(0.5), 1: pytest.approx(0.6)}
    spread = score_spread(group.settings[0], group.settings[0])
    assert (spread.seeds, spread.examples) == (2, 60)
    lacking = one(rows[:-1], numbers).settings[0]
    assert list(lacking.scores) == [0]


def test_folds_of_two_versions_make_a_run_only_where_no_version_has_all():
    old = [fold_row(fold, dev_score=0.5) for fold in range(2)]
    new = [fold_row(fold, dev_score=0.7, code_version="0.2.0") for fold in (1, 2)]
    [run] = one([*old, *new], numbers).settings[0].runs[0]
    assert [row.dev_score for row in run] == [0.5, 0.7, 0.7]
    whole = [*old, fold_row(2, dev_score=0.5), *new]
    [run] = one(whole, numbers).settings[0].runs[0]
    assert [row.dev_score for row in run] == [0.5, 0.5, 0.5]
    repeated = [fold_row(fold, dev_score=0.5, repeat=n) for fold in range(3) for n in (1, 2)]
    assert [len(run) for run in one(repeated, numbers).settings[0].runs[0]] == [3, 3]


def test_costs_are_paired_by_fold():
    full, head = (90.0, 100.0, 120.0), (30.0, 40.0, 50.0)
    rows = [fold_row(n, time=t) for n, t in enumerate(full)]
    rows += [fold_row(n, "head", time=t) for n, t in enumerate(head)]
    group = one(rows, numbers)
    base, other = group.settings
    assert set(base.by_run(TIME)) == {(0, fold, 1, "0.1.0") for fold in range(3)}
    assert base.estimate(TIME) == mean_t(full)
    ratio = compare(group, "time", other, base)
    assert ratio == paired_ratio(dict(enumerate(head)), dict(enumerate(full)))


def test_a_setting_learned_if_the_score_of_all_folds_is_above_the_majority():
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


@pytest.mark.parametrize(("metric", "score"), [("rmse", 0.2), ("mcc", 0.1)])
def test_by_another_metric_folds_learned_unless_most_are_flagged(metric, score):
    flagged = [
        [fold_row(n, dev_metric=metric, dev_score=score, majority_score=None,
                  flags="not_learned" if n < count else None) for n in range(3)]
        for count in range(4)
    ]  # fmt: skip
    learned = [one(rows, numbers).settings[0].learned for rows in flagged]
    assert learned == [True, True, False, False]


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
