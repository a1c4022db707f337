"""The setting that is recommended, and why none is."""

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.analysis.costs import NEEDS, cost_of, parse_margin, parse_where
from bench.analysis.groups import groups
from bench.analysis.recommendation import candidates_of, recommend
from bench.common.errors import InputError
from bench.plan.metrics import METRICS
from bench.stats.best import Sample, compare_all
from tests.bench.synthetic_rows import cell, failed_row, result_row

EXAMPLES = 2000
HEAD, FULL = ("head", None, None), ("full", None, None)
SMALL, LARGE = ("lora", 1, "attn-only"), ("lora", 8, "all-lin")
SHARES = {HEAD: 0.45, FULL: 0.60, SMALL: 0.60, LARGE: 0.60}
WORSE = {**SHARES, SMALL: 0.55}  # beyond the margin
LORA_1 = "lora rank 1 on attn-only, fp32"


def axes_of(row):
    return row.mode, row.rank, row.layers


def values_of(shares, examples=EXAMPLES):
    """Outcomes of the examples: hard or easy for all, with little chance."""

    def of(rows):
        [row] = rows
        axes = axes_of(row)
        share, number = shares[axes], list(shares).index(axes)
        hardness = np.random.default_rng(0).random(examples)
        chance = np.random.default_rng([number, row.seed]).normal(0, 0.05, examples)
        return (hardness < share + chance).astype(float)

    return of


def group_of(shares=SHARES, seeds=3, kept=True, examples=EXAMPLES, rows=(), **changes):
    """A group whose scores are those of the outcomes."""
    of, made = values_of(shares, examples), list(rows)
    for axes in shares:
        for seed in range(seeds):
            row = result_row(cell(*axes, "off", seed), **changes)
            score = float(of([row]).mean())
            half = 1.96 * (score * (1 - score) / examples) ** 0.5
            made.append(replace(
                row, dev_score=score, dev_ci_low=score - half, dev_ci_high=score + half
            ))  # fmt: skip
    [group] = groups(made, (), of if kept else lambda rows: None)
    return group


@pytest.mark.parametrize(("shares", "changes", "margin", "limits", "among", "expected"), [
    (SHARES, {}, None, "", 4, LORA_1),
    (SHARES, {"peak_rss_mib": None}, None, "", 4, LORA_1),  # by time
    (WORSE, {}, None, "", 4, "lora rank 8 on all-lin, fp32"),
    (WORSE, {}, 0.08, "", 4, LORA_1),
    (WORSE, {}, None, "memory<=800MiB size<=5MB", 2, LORA_1),  # the best of these
    (WORSE, {}, None, "size<=10kB", 1, "head, fp32"),
    ({**SHARES, FULL: 0.65}, {}, 0.001, "", 4, "full, fp32"),
])  # fmt: skip
def test_the_cheapest_that_is_as_good_as_the_best_within_limits_is_recommended(
    shares, changes, margin, limits, among, expected
):
    known = candidates_of(group_of(shares, **changes), margin)
    recommended = recommend(known, "memory", parse_where(limits))
    assert (recommended.setting.label, len(recommended.among)) == (expected, among)
    assert recommended.decided
    assert recommended.pick in recommended.could_be
    if margin == 0.001:
        assert recommended.shown == (recommended.reference,)
    if changes:
        assert "memory" not in recommended.alternatives
        assert recommend(known, "memory", parse_where("memory<=9GB")).among == ()
    if shares is SHARES:
        score = known.group.settings[2].scores[0]
        assert recommended.cross_fitted_score == pytest.approx(score, abs=0.02)


def test_without_all_predictions_bounds_are_wider_and_no_score_is_cross_fitted():
    of, rows = values_of(SHARES), group_of().rows
    [group] = groups(rows, (), lambda rows: of(rows) if rows[0].seed else None)
    known = candidates_of(group)
    assert (known.kept, recommend(known).cross_fitted_score) == (False, None), "of some seeds alone"
    assert recommend(known).obstacles == ("precision",)
    assert all(0 < sample.variance < 1 for sample in known.samples)
    [group] = groups(replace(row, seed=row.seed + 7 * (row.mode == "head")) for row in rows)
    assert "no common seed" in recommend(candidates_of(group)).obstacles


def test_the_score_of_a_lucky_setting_is_given_without_its_luck():
    """Of 16 equal settings those that only chance makes better are selected by a limit on score."""
    known, lucky, fitted = candidates_of(group_of(examples=333)), [], []
    for seed in range(80):
        outcomes = (np.random.default_rng(seed).random((16, 3, 333)) < 0.6).astype(float)
        samples = [
            Sample(dict(enumerate(of.mean(axis=1).tolist())), dict(enumerate(of)))
            for of in outcomes
        ]
        many = replace(
            known, settings=known.settings[:1] * 16, samples=tuple(samples),
            comparison=compare_all(samples), margin=0.2,
        )  # fmt: skip
        many.__dict__.update(obstacles=())
        recommended = recommend(many, "memory", parse_where("score>=0.615"))
        if (score := recommended.cross_fitted_score) is not None:
            lucky.append(many.scores[recommended.pick])
            fitted.append(score)
    assert len(lucky) > 12
    assert np.mean(lucky) > 0.62
    assert np.mean(fitted) == pytest.approx(0.6, abs=0.01)


def test_costs_are_in_their_units():
    group, saved = group_of(seeds=1), group_of(seeds=1, saved_mib=3.0)  # as VeRA saves more
    for setting, larger in zip(group.settings, saved.settings, strict=True):
        [row] = setting.ok
        is_whole = row.mode == "full" or row.layers == "all-lin"
        size = 4 * (row.params_total if is_whole else row.params_trainable) / 1e6
        assert [cost_of(group, setting, need) for need in NEEDS] == pytest.approx([
            row.peak_rss_mib, row.ms_per_1k_tokens * row.tokens_total / 1e6, size,
            row.params_trainable,
        ])  # fmt: skip
        of_larger = size if is_whole else 3 * 2**20 / 1e6
        assert cost_of(saved, larger, "size") == pytest.approx(of_larger)
    uncounted = group_of(seeds=1, tokens_total=None)
    assert all(cost_of(uncounted, s, "time") == s.ok[0].train_s for s in uncounted.settings)


def test_limits_and_margins_have_units():
    limits = parse_where(" memory<=6GiB time <= 30min score>=60% size<=5MB parameters<=1.5M")
    assert [(one.name, one.at_most, one.value) for one in limits] == [
        ("memory", True, 6144.0), ("time", True, 1800.0), ("score", False, 0.6),
        ("size", True, 5.0), ("parameters", True, 1.5e6),
    ]  # fmt: skip
    assert parse_where("") == ()
    values = {text: parse_where(text)[0].value for text in (
        "memory<=1048576B", "memory<=1048576kB", "memory<=2KiB", "time<=2h", "time<=5s",
        "size<=1GB", "size<=1MiB", "size<=3kB", "parameters<=5k", "parameters<=7", "score<=0.5",
    )}  # fmt: skip
    assert list(values.values()) == pytest.approx(
        [1.0, 1000.0, 2 / 1024, 7200.0, 5.0, 1000.0, 1.048576, 0.003, 5000.0, 7.0, 0.5]
    )
    assert [limits[0].shortfall(n * 6144.0) for n in (1, 2)] == [0, 1]
    assert limits[2].shortfall(float("nan")) == float("inf")
    for text, metric, reference, margin in (
        ("1pt", "accuracy", None, 0.01), ("5%", "accuracy", 0.6, 0.03), ("5%", "mcc", -0.2, 0.01),
        ("5%", "rmse", 20.0, 1.0), ("0.1", "rmse", None, 0.1),
    ):  # fmt: skip
        assert parse_margin(text, METRICS[metric], reference) == pytest.approx(margin)


def test_other_limits_and_margins_are_refused():
    refused = tomllib.loads(Path(__file__).with_name("refused.toml").read_text("utf-8"))
    for one in refused["where"]:
        with pytest.raises(InputError, match="--where") as raised:
            parse_where(one["text"])
        assert one["line"] in str(raised.value)
    for one in refused["margin"]:
        with pytest.raises(InputError, match="--margin") as raised:
            parse_margin(one["text"], METRICS[one["metric"]], None)
        assert one["line"] in str(raised.value)


def with_scores(known, i, change):
    """Candidates with other scores of a setting by seed."""
    samples = list(known.samples)
    samples[i] = replace(samples[i], scores={**samples[i].scores, **change})
    return replace(known, samples=tuple(samples))


@pytest.mark.parametrize(("depth", "margin", "examples", "collapsed"), [
    (0.01, 0.02, 2000, ()), (0.1, 0.02, 2000, (1,)), (0.1, 0.08, 2000, ()),
    (0.02, 0.001, 2000, ()), (0.13, 0.02, 100, ()), (0.16, 0.02, 100, (1,)),
])  # fmt: skip
def test_the_pick_is_withdrawn_if_a_training_collapsed(depth, margin, examples, collapsed):
    """A third of the depth is in the mean; half the interval is 0.096 on 100 examples."""
    known = candidates_of(group_of({HEAD: 0.3, SMALL: 0.6}, examples=examples), margin)
    pick = recommend(known).pick
    fallen = with_scores(known, pick, dict.fromkeys(range(3), 0.6) | {1: 0.6 - depth})
    assert fallen.collapsed(pick) == collapsed
    again = recommend(fallen)
    assert (again.decided, again.withdrawn) == ((False, pick) if collapsed else (True, None))
    assert again.obstacles == (("collapse",) if collapsed else ())
    ended = [failed_row(cell(*SMALL, "off", 7), "oom", "no")]
    assert recommend(candidates_of(group_of({HEAD: 0.3, SMALL: 0.6}, rows=ended))).decided


@pytest.mark.parametrize(("lowest", "widened"), [(0.585, False), (0.565, False), (0.4, True)])
def test_a_collapse_widens_all_bounds_if_it_has_most_of_the_variance_between_seeds(lowest, widened):
    """0.565 collapsed, too, but the three other settings vary more together."""
    known = candidates_of(group_of())
    for i in range(4):
        known = with_scores(known, i, {0: 0.6, 1: lowest if i == 1 else 0.585, 2: 0.615})
    assert known.collapsed(1) == (() if lowest == 0.585 else (1,))
    assert known.widened is widened
