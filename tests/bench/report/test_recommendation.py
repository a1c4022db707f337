"""What a recommendation says: the answer, what is missing, and the command that supplies it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.analysis.costs import parse_where
from bench.analysis.groups import groups
from bench.analysis.recommendation import candidates_of, recommend
from bench.common.errors import InputError
from bench.grid.inputs import needed_seeds, power_note, shown_size
from bench.plan.columns import NAMES
from bench.plan.metrics import METRICS
from bench.recommend import main
from bench.report import recommendation
from bench.report.recommendation import _exportable_seed, advice, as_json, form_cost, obstacles
from bench.results.exports import INT8, MERGED, Figures, Form
from bench.results.outcomes import outcomes_file
from bench.results.rowfile import record
from bench.results.store import read_rows
from tests.bench.analysis.test_recommendation import (
    EXAMPLES,
    FULL,
    HEAD,
    LARGE,
    SHARES,
    SMALL,
    axes_of,
    group_of,
    values_of,
    with_scores,
)
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import cell, failed_row, result_row, synthetic_rows, write_rows
from tests.reference_run import copy_reference

ROOT = Path(__file__).parents[3]


def said(group, prefer="memory", where="", margin=None):
    return advice(recommend(candidates_of(group, margin), prefer, parse_where(where)))


def text(advice):
    return " ".join([advice.heading, *advice.sentences])


COSTS = {(*HEAD, "off"): (500.0, 20.0), (*FULL, "off"): (1000.0, 100.0),
         (*FULL, "bf16"): (900.0, 50.0), (*SMALL, "bf16"): (810.0, 40.0)}  # fmt: skip


def measured(without=()):
    """A group of settings in fp32 and bf16 with these costs: memory, and time per token."""
    of = values_of(SHARES)
    rows = [
        result_row(cell(*axes, seed), peak_rss_mib=memory, ms_per_1k_tokens=time)
        for axes, (memory, time) in COSTS.items() if axes != without
        for seed in range(3)
    ]  # fmt: skip
    rows = [replace(row, dev_score=float(of([row]).mean())) for row in rows]
    [group] = groups(rows, (), of)
    return group


def fallen_group(axes, status="ok"):
    """A group in which the training of a setting by seed 1 diverged, or scored 0.3."""
    of, fallen = values_of(SHARES), np.resize([1.0] * 3 + [0.0] * 7, EXAMPLES)
    rows = [*group_of().rows]
    [place] = [i for i, row in enumerate(rows) if (*axes_of(row), row.seed) == (*axes, 1)]
    rows[place] = replace(rows[place], dev_score=0.3)
    if status != "ok":
        rows[place] = failed_row(cell(*axes, "off", 1), status, "nan")
    wrong = rows[place].cell_id
    [group] = groups(rows, (), lambda rows: fallen if rows[0].cell_id == wrong else of(rows))
    return group


def fixed(of_seed=3e-4, of_examples=2e-5, difference=0.0, seeds=3, margin=0.02):
    """Candidates whose pairs all have these differences and variances, on 1,000 examples."""
    known, shape = candidates_of(group_of(examples=1000)), (4, 4)
    signs = np.sign(np.subtract.outer(np.arange(4), np.arange(4)))
    compared = replace(
        known.comparison, difference=difference * signs, seeds=np.full(shape, seeds),
        of_seed=np.full(shape, of_seed), of_examples=np.full(shape, of_examples),
    )  # fmt: skip
    compared.__dict__["quantiles"] = np.full(shape, 2.0)
    found = replace(known, comparison=compared, margin=margin)
    found.__dict__["obstacles"] = ()
    return recommend(found)


def test_only_settings_that_it_is_not_shown_against_are_rivals():
    """The head is half a point of the whole scale worse, and known badly."""
    undecided = fixed(difference=0.0)
    compared = undecided.candidates.comparison
    compared.difference[1:, 0], compared.difference[0, 1:] = 0.5, -0.5
    compared.of_examples[1:, 0] = compared.of_examples[0, 1:] = 1e-2
    compared = replace(compared)
    compared.__dict__["quantiles"] = np.full((4, 4), 2.0)
    again = replace(undecided, candidates=replace(undecided.candidates, comparison=compared))
    assert again.candidates.shown[1:, 0].all()
    assert again.resolution.factor == pytest.approx(1.2e-4 / (0.02 / 2.84162) ** 2, rel=1e-4)


def test_what_would_decide_is_calculated_from_the_variances():
    """By hand: an error of 0.01095 shows 0.02 four times out of five at 2 + 0.84 errors."""
    undecided = fixed()
    allowed = (0.02 / 2.84162) ** 2
    found = undecided.resolution
    assert undecided.loss(0) == pytest.approx(2 * 1.2e-4**0.5)
    assert found.margin == pytest.approx(2 * 1.2e-4**0.5)
    assert found.factor == pytest.approx(1.2e-4 / allowed, rel=1e-4)
    assert found.seeds == math.ceil(3e-4 / (allowed - 2e-5)) == 11
    assert found.bottleneck == "seeds"
    assert undecided.finest == (
        pytest.approx(2.84162 * 2e-5**0.5, rel=1e-4), math.ceil(1000 * (284.162 * 2e-5**0.5) ** 2)
    )  # fmt: skip
    for of_examples, is_told in ((1e-6, False), (1.27e-5, False), (1.5e-5, True)):
        told = text(advice(fixed(of_examples=of_examples)))
        assert ("no number of seeds shows a difference of 1 point" in told) is is_told
    found = fixed(of_seed=3e-5, of_examples=1e-4).resolution
    assert (found.bottleneck, found.seeds) == ("examples", None)
    assert found.factor == pytest.approx(1.1e-4 / allowed, rel=1e-4)
    first = replace(fixed(difference=0.005, margin=0.015), could_be=(0,)).resolution
    assert first.factor == pytest.approx(1.2e-4 / (0.01 / 2.84162) ** 2, rel=1e-4)
    far = replace(fixed(difference=0.02, margin=0.001), could_be=(0,)).resolution
    assert (far.bottleneck, far.factor) == ("margin", None), "the difference takes room of it"
    single = fixed(seeds=1)
    assert single.finest is single.resolution.seeds is None, "pairs of one seed show nothing of it"
    assert [form_cost("time", seconds) for seconds in (61.2, 754.0)] == ["61 s", "12.6 min"]


def test_the_power_is_reported_beforehand():
    """77 settings: Bonferroni's 3.2125 and 0.8416 errors of sqrt((0.016 + 0.062 / 3) / 1064)."""
    assert shown_size(1064, 3, 77) == pytest.approx(4.0541 * (0.036667 / 1064) ** 0.5, rel=1e-3)
    for settings in (4, 80):
        needed = needed_seeds(0.02, 1064, settings)
        assert shown_size(1064, needed, settings) <= 0.02
        assert needed == 1 or shown_size(1064, needed - 1, settings) > 0.02
    assert needed_seeds(0.001, 1064, 80) is None
    cells = [cell(*axes, "off", seed, folds=2, fold=fold)
             for axes in SHARES for seed in range(3) for fold in range(2)]  # fmt: skip
    accuracy, enough = METRICS["accuracy"], 1500 * (shown_size(1000, 3, 4) / 0.02) ** 2
    assert 0.01 < shown_size(round(enough), 3, 4) < 0.02
    check_snapshot("power", {
        "three seeds": power_note(cells, 1000, accuracy),
        "one seed": power_note([one for one in cells if one.seed == 0], 1000, accuracy),
        "by another metric": power_note(cells, 1000, METRICS["pearson"]),
        "enough examples": power_note(cells, round(enough), accuracy),
        "few examples": power_note(cells, 200, accuracy),
    })  # fmt: skip


def exported(metric="accuracy", missing=""):
    known = {"size_mb": 23.0, "one_ms": 2.5, "batch_ms": 40.0, "score": 0.58}
    forms = (
        Form(name=MERGED, format="transformers", size_mb=91.0, one_ms=4.25, batch_ms=60.0),
        Form(name=INT8, format="onnx", missing=missing, **{} if missing else known),
    )
    return Figures(
        forms=forms, metric=metric, examples=9, machine="Xeon", threads=2, at="2026-11-27"
    )


def test_answers_reasons_and_commands_follow_from_the_rows():
    """Of groups of the head, full fine-tuning and two LoRAs, unless stated otherwise."""
    others = {HEAD: 0.3, FULL: 0.6, SMALL: 0.6}
    lora = {HEAD: 0.3, SMALL: 0.6}
    tuned = [replace(row, learning_rate_source="search") for row in group_of().rows[:3]]
    some_tuned = groups([*tuned, *group_of().rows[3:]], (), values_of(SHARES))[0]
    single = [row for row in measured().rows
              if row.seed == 0 or (row.mode, row.amp) != ("full", "bf16")]  # fmt: skip
    diverged = [failed_row(cell(*axes, "off", 2), "invalid", "nan") for axes in others]
    in_bf16 = [failed_row(cell("full", None, None, "bf16"), "invalid", "nan")]
    confirmed = [row for row in group_of(seeds=29).rows if row.seed > 2 and row.rank == 1]
    check_snapshot("recommendation", {
        "decided": said(group_of()),
        "decided by time": said(group_of(), prefer="time"),
        "decided within limits": said(group_of(), where="memory<=800MiB size<=5MB"),
        "the best is recommended": said(group_of({HEAD: 0.3, FULL: 0.6})),
        "from two files": advice(recommend(candidates_of(group_of())), sources=["a.csv", "b.csv"]),
        "confirmed by 29 trainings": said(group_of(rows=confirmed)),
        "given rates, capped": said(group_of(learning_rate=3e-3, max_steps=30, early_stopping=2)),
        "tuned rates, five seeds": said(group_of(seeds=5, learning_rate_source="search")),
        "some tuned rates": said(some_tuned),
        "bf16": said(measured()),
        "bf16, and no full fine-tuning in it": said(measured(without=(*FULL, "bf16"))),
        "bf16, and no full fine-tuning in fp32": said(measured(without=(*FULL, "off"))),
        "bf16, one process of full": said(groups(single, (), values_of(SHARES))[0], margin=0.05),
        "one seed": said(group_of(seeds=1)),
        "two seeds": said(group_of(seeds=2, examples=20_000)),
        "no head": said(group_of({FULL: 0.6, SMALL: 0.6})),
        "the head is best": said(group_of({HEAD: 0.7, SMALL: 0.6, FULL: 0.6})),
        "not shown to beat the head": said(group_of({HEAD: 0.6, SMALL: 0.6, FULL: 0.612})),
        "not shown to beat chance": said(group_of(flags="not_learned", max_steps=50)),
        "no full fine-tuning": said(group_of({HEAD: 0.45, SMALL: 0.6, LARGE: 0.6})),
        "no predictions": said(group_of(kept=False)),
        "one setting": said(group_of({FULL: 0.6}, kept=False)),
        "nothing ended ok": said(groups([failed_row(cell(*FULL, "off"), "oom", "no")])[0]),
        "random weights": said(groups(synthetic_rows(1, init="random"))[0]),
        "nothing within limits": said(group_of(), where="memory<=600MiB score>=0.58"),
        "a narrow margin": said(group_of(), margin=0.001),
        "few examples, a narrow margin": said(
            group_of({HEAD: 0.3, FULL: 0.6, SMALL: 0.595}, examples=300), margin=0.01),
        "few examples without predictions": said(group_of(kept=False, examples=1000)),
        "withdrawn": advice(recommend(with_scores(
            candidates_of(group_of(lora)), 1, {0: 0.6, 1: 0.45, 2: 0.6}))),
        "withdrawn, and another is next": advice(recommend(with_scores(
            candidates_of(group_of({**others, LARGE: 0.6})), 2, {1: 0.45}))),
        "one large setting collapsed": said(fallen_group(LARGE)),
        "a small setting collapsed": said(fallen_group(SMALL)),
        "one diverged": said(fallen_group(LARGE, "invalid"), margin=0.05),
        "diverged, and seeds are missing": said(
            group_of(others, seeds=2, examples=20_000, rows=diverged)),
        "diverged without a score": said(group_of(seeds=1, rows=in_bf16)),
        "11 seeds or 2,400 examples would do": advice(fixed()),
        "more than 30 seeds": advice(fixed(of_seed=3e-2, of_examples=2e-5)),
        "no number of seeds": advice(fixed(of_seed=3e-3, of_examples=2e-4)),
        "examples": advice(fixed(of_seed=3e-5, of_examples=1e-4)),
        "far too few examples": advice(fixed(margin=1e-4)),
        "the margin": advice(replace(fixed(margin=0.011, difference=0.0109), could_be=(0,))),
    })  # fmt: skip


def test_collapsed_settings_are_named_up_to_four_and_none_is_an_alternative():
    known = candidates_of(group_of())
    for i in range(4):
        known = with_scores(known, i, {1: 0.2})
    undecided = replace(recommend(known), withdrawn=None)
    more = replace(undecided, candidates=replace(
        known, settings=known.settings * 2, samples=known.samples * 2))  # fmt: skip
    four, eight = map(obstacles, (undecided, more))
    assert four.count("seed 1 scored 0.200") == eight.count("seed 1 scored 0.200") == 4
    assert "more setting" not in four
    assert "; and 4 more settings." in eight
    made = recommend(candidates_of(fallen_group(LARGE, "invalid"), 0.05))
    i = next(i for i, s in enumerate(made.candidates.settings) if s.layers == "all-lin")
    assert i not in made.alternatives.values()
    assert replace(made, reference=i, shown=(i,)).alternatives == {}
    assert "although a training collapsed" in text(advice(replace(made, reference=i)))


def test_the_data_are_json_without_nan():
    made = said(group_of(peak_rss_mib=None))
    data = json.loads(json.dumps(as_json(made), allow_nan=False))
    assert data["decided"]
    assert data["recommended"] == data["recommended"] | {
        "memory_mib": None, "label": "lora rank 1 on attn-only, fp32", "trainings": 3,
        "collapsed_seeds": [], "learning_rates": "default",
        "excluded_collapse_rate": pytest.approx(0.63, abs=0.005),
        "score": pytest.approx(0.6, abs=0.02),
    }  # fmt: skip
    assert data["learning_rates"] == {"tuned": 0, "default": 4, "given": 0}
    assert set(data["alternatives"]) == {"time", "size", "parameters", "score"}
    assert data["sentences"] == list(made.sentences)
    assert data["best"]["label"] == "lora rank 8 on all-lin, fp32"
    in_bf16 = as_json(said(measured()))
    assert in_bf16["against_full_in_same_precision"]["memory"][0] == pytest.approx(0.9)
    assert in_bf16["amp_itself"]["time"][0] == pytest.approx(0.5)
    known = candidates_of(group_of({HEAD: 0.3, SMALL: 0.6}))
    fallen = advice(recommend(with_scores(known, 1, {0: 0.6, 1: 0.45, 2: 0.6})))
    assert as_json(fallen)["withdrawn"]["collapsed_seeds"] == (1,)
    row = known.group.rows[0]
    for scores, seed in (((0.271, 0.346, 0.327), 1), ((0.33, 0.346, 0.327), 0), ((), 0)):
        own = [replace(row, seed=n, dev_score=score) for n, score in enumerate(scores)]
        assert _exportable_seed(own, known.group) == seed, "bench.export refuses the others"


def test_settings_that_were_exported_have_columns_of_what_that_costs():
    made = recommend(candidates_of(group_of()))
    seed = made.setting.ok[1].cell_id
    known = advice(made, exports={seed: exported()})
    tables = {
        "both forms, as a table": exported(),
        "scored by another metric": exported(metric="macro_f1"),
        "one form was not measured": exported(missing="no onnxruntime"),
    }
    check_snapshot("exported", {"both forms": recommendation.lines(known)} | {
        title: advice(made, exports={seed: of}).table for title, of in tables.items()
    })  # fmt: skip
    assert advice(made, exports={"another": exported()}).table == advice(made).table
    data = json.loads(json.dumps(as_json(known)))
    assert data["recommended"]["exported"]["forms"][1]["one_ms"] == 2.5
    assert data["baseline"]["exported"] is None


def recommend_command(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments)], standalone_mode=False)


def test_readme_quotes_what_the_command_says_of_the_reference_run(tmp_path):
    """Of its rows alone, to which README's first command adds; the grid at one epoch decides."""
    done = recommend_command("--runs", copy_reference(tmp_path))
    assert (done.return_value, done.stderr) == (0, "")
    path, committed = tmp_path / "runs.csv", ROOT / "runs.csv"
    write_rows(path, [row for row in read_rows(committed) if row.grid == "full"])
    outcomes_file(path).write_bytes(outcomes_file(committed).read_bytes())
    done = recommend_command("--runs", path)
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert done.stdout.splitlines()[0] in readme.replace("> ", "")


def test_the_command_ends_with_1_undecided_and_refuses_bad_input(tmp_path):
    path, empty = tmp_path / "runs.csv", tmp_path / "empty.csv"
    write_rows(path, synthetic_rows(68, failures=False))
    empty.write_bytes(record(NAMES))
    done = recommend_command("--runs", path, "--json")
    assert done.return_value == 1, done.exception
    data = json.loads(done.stdout)
    assert (data["decided"], data["obstacles"]) == (False, ["one seed"])
    for arguments, message in [
        (["--runs", empty], "no results; run python -m bench.grid"),
        (["--runs", path, "--where", "memory<=6"], "memory needs a unit"),
        (["--runs", path, "--margin", "2points"], "is not a positive margin"),
    ]:
        with pytest.raises(InputError, match=message):
            main.main([*map(str, arguments)], standalone_mode=False)
