"""Several runs of a cell: repeats, versions of the code, and scores from other machines."""

import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.analysis.groups import groups
from bench.analysis.verdicts import compare, score_spread
from bench.report.__main__ import main
from bench.report.render import report
from bench.report.text import no_interval
from bench.results.outcomes import no_values
from bench.results.store import Store
from bench.stats.intervals import Std, ratio
from tests.bench.synthetic_rows import as_results, cell, planned_row, result_row, synthetic_rows

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
    setting = one(rows).settings[0]
    assert sorted(setting.by_run(TIME).values()) == [90.0, 100.0, 100.0, 110.0]
    assert setting.estimate(TIME).value == pytest.approx(100.0)
    assert setting.estimate("peak_rss_mib").value == pytest.approx(1000.0)
    assert setting.estimate("peak_rss_mib").low is not None
    assert setting.scores == {0: 0.5, 1: 0.6}
    assert setting.estimate("dev_score").value == pytest.approx(0.55)
    group = one(rows)
    assert (group.seeds, group.ok) == (2, 4)
    rows = [run(repeat=n, dev_score=0.5, dev_ci_low=0.47, dev_ci_high=0.53) for n in (1, 2)]
    assert one(rows).settings[0].estimate("dev_score").ends() == pytest.approx((0.47, 0.53))
    group = one([*rows, run("head", dev_score=0.4)], lambda rows: np.full(4, rows[0]["dev_score"]))
    assert list(group.settings[0].values) == [0]
    spread = score_spread(*group.settings)
    assert (spread.seeds, spread.of_seeds) == (1, None)
    differently_long = one(rows, lambda rows: np.ones(rows[0]["repeat"])).settings[0]
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
    assert one(rows).settings[0].estimate("peak_rss_mib").ends() is not None
    assert group.settings[1].estimate("peak_rss_mib").ends() is None, "memory of one run"

    seeds = [run(time=row[TIME], seed=n, peak_rss_mib=1000.0 + n) for n, row in enumerate(rows)]
    group = one([*seeds, run("head")])
    assert half_width(group.settings[1]) == pytest.approx(4.302653 * 0.02, rel=1e-6)
    assert group.between("peak_rss_mib") is None, "the seed determines the largest batch"


@pytest.mark.parametrize(("gap", "own", "width"), [
    (0.2, 0.001, 4.302653 * 0.2 / math.sqrt(3)),  # less steady than the others
    (0.015, 0.001, None),  # that may be by chance
    (0.01, 0.3, 0.3 / math.sqrt(3)),  # no better than each is known
])  # fmt: skip
def test_repeats_have_the_interval_of_all_settings_or_of_their_own_scatter(gap, own, width):
    def repeats(mode, gap, own=0.001, **settings):
        """Three runs, a gap between their logarithms, each with an interval of its own."""
        for n in (1, 2, 3):
            time = 100 * math.exp((n - 2) * gap)
            ends = {f"{TIME}_ci_low": time / math.exp(own), f"{TIME}_ci_high": time * math.exp(own)}
            yield run(mode, time, repeat=n, settings=settings, **ends)

    rates = (1e-5, 2e-5, 3e-5, 4e-5)
    steady = [row for rate in rates for row in repeats("full", 0.01, learning_rate=rate)]
    group = one([*steady, *repeats("head", gap, own)])
    pooled = group.between(TIME).half_width(3)
    assert half_width(group.settings[-1]) == pytest.approx(width or pooled, rel=1e-6)
    assert half_width(group.settings[0]) == pytest.approx(pooled, rel=1e-6)
    assert width is None or pooled < width


def test_costs_are_paired_over_runs_that_both_have_and_not_across_versions():
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
    # two have one degree of freedom: their own spread would be of no use
    modes = ((mode, n) for mode in ("full", "head", "lora") for n in (1, 2))
    rows = [run(mode, 100 * math.exp(0.02 * (-1) ** n), repeat=n) for mode, n in modes]
    group = one(rows)
    gap = compare(group, "time", group.settings[1], group.settings[0])
    half = 3.182446 * group.between(TIME).value
    assert math.log(gap.high / gap.value) == pytest.approx(half, rel=1e-6)
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


def away(row, machine="EPYC, 64 cores", **more):
    there = {"conditions_id": machine[:4], "machine": machine, "finished_at": "2026-01-01"}
    return row | there | more


def test_scores_come_from_elsewhere_and_costs_and_planned_repeats_never_do():
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
    planned = [planned_row(cell("full", None, None, "off")) | {"repeat": n} for n in (1, 2)]
    [group] = groups([run()], planned)
    assert [row["status"] for row in group.ordered] == ["ok", None]


def lines_of(rows):
    facts = report(as_results(rows))
    lines = [*facts["lead"], facts["cells_heading"], facts["failures_heading"]]
    lines += [line for one in facts["sections"] for line in (one.heading, *one.lines)]
    return lines + [row[0] for row in facts["failures"].rows[:1]]


def test_a_report_says_what_its_runs_are(undrawn):
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
