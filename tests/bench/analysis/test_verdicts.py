"""Which rows are compared, which setting is best, and which differences are significant."""

import numpy as np
import pytest

from bench.analysis.costs import cost_of
from bench.analysis.groups import groups
from bench.analysis.verdicts import (
    amp_ratios,
    best_by_score,
    better_worse,
    compare,
    effects,
    pareto,
    rank_effect,
    score_spread,
)
from tests.bench.synthetic_rows import cell, failed_row, planned_row, result_row, synthetic_rows


def row(mode="full", rank=None, layers=None, amp="off", seed=0, settings=None, **figures):
    of = cell(mode, rank, layers, amp, seed, **(settings or {}))
    return result_row(of, **figures)


def one(rows, planned=()):
    found = groups(rows, planned)
    assert len(found) == 1
    return found[0]


LORA = ("lora", 1, "attn-only")


def test_an_interval_ends_where_its_metric_does():
    """Of seeds of which one collapsed, and whose predictions are not kept."""
    rows = [row(seed=seed, dev_score=score) for seed, score in enumerate((0.0, 0.93, 0.95))]
    score = one(rows).settings[0].estimate("dev_score")
    assert score.value == pytest.approx(0.627, abs=1e-3)
    assert score.ends() == (0.0, 1.0)


def test_the_baseline_unfreezes_only_where_all_do():
    unfreezing = {"unfreeze": "iterative"}
    rows = [row(settings=unfreezing), row(*LORA, settings=unfreezing), row("head", None, None)]
    base = one(rows).baseline
    assert (base.mode, base.unfreezes) == ("full", True)
    assert one([*rows, row(*LORA)]).baseline is None
    assert not one([*rows, row()]).baseline.unfreezes


@pytest.mark.parametrize(
    ("other", "number"),
    [({"conditions_id": "other"}, 2), ({"batch_size": 8}, 2), ({"data_digest": "x"}, 2),
     ({"model_digest": "x"}, 2), ({"init": "random"}, 2), ({}, 1),
     ({"model": "renamed", "max_train": None}, 1)],
)  # fmt: skip
def test_rows_are_of_one_group_unless_something_else_than_the_axes_differs(other, number):
    assert len(groups([row(), row(*LORA) | other, row("head") | other])) == number


BF16 = {"amp": "bf16", "frozen_dtype": "bf16"}


def test_the_type_of_frozen_weights_splits_no_group_and_is_in_labels_where_it_varies():
    head = row("head", frozen_dtype="fp32", amp="bf16")
    rows = [row(), row(amp="bf16"), row(*LORA, **BF16), head]
    assert [s.label for s in one(rows).settings] == [
        "full, fp32", "full, bf16", "head, bf16", "lora rank 1 on attn-only, bf16",
    ]  # fmt: skip
    rates = one([row(), row(settings={"learning_rate": 3e-5})])
    assert [s.label for s in rates.settings] == [
        "full, fp32, rate 3e-05",
        "full, fp32, rate 0.0002",
    ]
    group = one([*rows, held(row(*LORA, amp="bf16"), "fp32")])
    assert [s.label for s in group.settings if s.mode == "lora"] == [
        "lora rank 1 on attn-only, bf16, frozen weights fp32",
        "lora rank 1 on attn-only, bf16, frozen weights bf16",
    ]
    assert not any(s.tells_rate for s in group.settings)


def held(row, frozen):
    """A row as one of a cell whose frozen weights are held so."""
    return row | {"frozen_dtype": frozen, "cell_id": f"{row['cell_id']}{frozen}"}


def test_the_usual_type_of_frozen_weights_is_the_most_frequent_and_of_equals_fp32():
    rows = [row()]
    for rank in (1, 2, 4):
        both = [held(row("lora", rank, "attn-only", "bf16"), each) for each in ("bf16", "fp32")]
        rows += both[: 1 if rank == 4 else 2]
    group = one(rows)
    labels = [s.label for s in group.usual]
    assert labels[0] == "full, fp32"
    assert [label.rpartition(" ")[2] for label in labels[1:3]] == ["fp32", "fp32"]
    assert labels[3] == "lora rank 4 on attn-only, bf16", "one that has no other is as usual"
    assert len(group.settings) == 6


def test_ranks_and_effects_do_not_mix_types_of_frozen_weights():
    rows = [row(peak_rss_mib=1000.0), row(amp="bf16", peak_rss_mib=800.0)]
    rows += [row(*LORA, peak_rss_mib=600.0), row("lora", 8, "attn-only", peak_rss_mib=600.0)]
    for frozen, memory, score in (("fp32", 500.0, 0.5), ("bf16", 100.0, 0.7)):
        figures = {"peak_rss_mib": memory, "dev_score": score}
        rows += [held(row("lora", r, "attn-only", "bf16", **figures), frozen) for r in (1, 8)]
    group = one(rows)
    assert [found["both"] for found in effects(group, "memory")] == pytest.approx([0.5])
    assert len(amp_ratios(group, "memory")) == 3
    found = rank_effect(group)
    assert (found["pairs"], found["mean"]) == (3, pytest.approx(0.0))
    some = [r for r in rows if r["frozen_dtype"] != "bf16" or r["rank"] == 8]
    found = rank_effect(one(some))
    assert (found["pairs"], found["mean"]) == (2, pytest.approx(0.0)), (
        "also where some ranks ran in one"
    )
    found = rank_effect(one(synthetic_rows(68)))
    assert (found["low"], found["high"], found["pairs"]) == (1, 8, 15)
    assert rank_effect(one([row(), row(*LORA)])) is None, "one rank"


def test_the_newest_group_comes_first_and_that_of_the_plan_before_it():
    old = row(finished_at="2026-01-01T00:00:00Z", conditions_id="old")
    new = row(finished_at="2026-02-01T00:00:00Z", conditions_id="new")
    assert [g.shared("conditions_id") for g in groups([old, new])] == ["new", "old"]
    planned = [planned_row(cell("full", None, None, "off"), "old")]
    assert [g.shared("conditions_id") for g in groups([old, new], planned)] == ["old", "new"]
    planned = [planned_row(cell(mode, None, None, "off")) for mode in ("full", "head")]
    group = one([row()], planned)
    assert [r["status"] for r in group.rows] == ["ok", None]
    assert group.ok == 1, "one is not run, and the other not there twice"


def test_one_seed_has_its_own_interval_and_several_that_of_their_mean():
    single = one([row(dev_score=0.5, dev_ci_low=0.47, dev_ci_high=0.53)]).settings[0]
    assert single.estimate("dev_score").ends() == (0.47, 0.53)
    both = one([row(seed=seed, dev_score=0.5 + 0.01 * seed) for seed in (0, 1)]).settings[0]
    assert both.estimate("dev_score").value == pytest.approx(0.505)
    assert both.estimate("dev_score").low == pytest.approx(0.505 - 12.706 * 0.005, abs=1e-4)


def test_settings_are_compared_by_ratios_of_costs_and_differences_of_scores():
    rows = [
        row(peak_rss_mib=1000.0, dev_score=0.50, dev_ci_low=0.47, dev_ci_high=0.53),
        row(*LORA, peak_rss_mib=600.0, dev_score=0.60, dev_ci_low=0.57, dev_ci_high=0.63),
    ]
    group = one(rows)
    full, lora = group.settings
    memory, score = (compare(group, name, lora, full) for name in ("memory", "score"))
    assert memory.value == pytest.approx(0.6)
    assert memory.holds(1.0) is None, "memory of one run has no interval"
    assert score.value == pytest.approx(0.1)
    assert score.holds(0.0) is False
    near = one([rows[0], rows[1] | {"dev_score": 0.51, "dev_ci_low": 0.48, "dev_ci_high": 0.54}])
    assert compare(near, "score", *near.settings).holds(0.0) is True
    seeds = [row(seed=s, dev_score=0.5 + 0.1 * s) for s in range(3)]
    seeds += [row(*LORA, seed=s, dev_score=0.51 + 0.1 * s + 0.001 * (s % 2)) for s in range(3)]
    paired = one(seeds)
    assert compare(paired, "score", *reversed(paired.settings)).holds(0.0) is False


def test_where_full_fine_tuning_alone_learned_nothing_is_best_by_score():
    rows = [row(dev_score=0.5), row("head", dev_score=0.9, flags="not_learned")]
    assert best_by_score(one([*rows, row(*LORA, dev_score=0.6)])).mode == "lora"
    assert best_by_score(one([failed_row(cell(*LORA, "off"), "timeout", "late")])) is None
    rows = [row(), row("head", peak_rss_mib=1.0, flags="not_learned")]
    group = one(rows)
    assert not group.learned
    assert best_by_score(group) is None
    assert pareto(group, "memory") == []
    assert one([row(), row(amp="bf16")]).learned, "of full fine-tuning alone, by what it learned"
    for flags in ([None, "not_learned"], ["not_learned"] * 2):
        some = [row(settings={"folds": 3, "fold": i}, flags=flags[i]) for i in (0, 1)]
        assert one(some).learned is (None in flags), "most of the folds so far"
    both = [row("lora", rank, "attn-only", flags="not_learned") for rank in (1, 8)]
    assert rank_effect(one([row(), *both])) is None
    assert rank_effect(one([row(), row("head"), *both])) is None, "of these neither learned"


def test_the_pareto_front_holds_what_nothing_beats_in_both():
    rows = [
        row(peak_rss_mib=1000.0, dev_score=0.5),
        row("head", peak_rss_mib=500.0, dev_score=0.4),
        row(*LORA, peak_rss_mib=700.0, dev_score=0.5),
        row("dora", 1, "attn-only", peak_rss_mib=800.0, dev_score=0.45),
        row("lora", 2, "attn-only", peak_rss_mib=500.0, dev_score=0.3),
    ]
    assert [s.mode for s in pareto(one(rows), "memory")] == ["head", "lora"]


def test_of_an_error_less_is_better_and_the_margin_is_a_share_of_the_baselines():
    errors = {"full": 200.0, "head": 240.0, "lora": 208.0}
    rows = [
        row(*((mode, None, None) if mode != "lora" else LORA), dev_metric="rmse",
            dev_score=error, dev_ci_low=error - 0.5, dev_ci_high=error + 0.5)
        for mode, error in errors.items()
    ]  # fmt: skip
    group = one(rows)
    assert best_by_score(group).mode == "full"
    assert group.margin == pytest.approx(10.0)
    assert [s.mode for s in pareto(group, "memory")] == ["head", "lora", "full"]
    assert group.decimals == 1
    gaps = [compare(group, "score", s, group.baseline) for s in group.settings[1:]]
    assert better_worse(group, gaps) == (0, 2)


def test_the_effects_of_amp_and_of_the_adapter_are_separate():
    rows = [
        row(peak_rss_mib=1000.0), row(amp="bf16", peak_rss_mib=800.0),
        row(*LORA, peak_rss_mib=600.0), row(*LORA, amp="bf16", peak_rss_mib=450.0),
    ]  # fmt: skip
    [found] = effects(one(rows), "memory")
    assert (found["amp_alone"], found["adapter_alone"], found["both"]) == pytest.approx(
        (0.8, 0.6, 0.45)
    )
    assert found["product"] == pytest.approx(0.48)
    assert [(s.mode, round(gap.value, 3)) for s, gap in amp_ratios(one(rows), "memory")] == [
        ("full", 0.8), ("lora", 0.75),
    ]  # fmt: skip
    assert effects(one(rows[2:]), "memory") == [], "without full fine-tuning in fp32"


def test_scores_are_paired_only_if_the_predictions_of_all_their_seeds_are_kept():
    rows = [
        row(mode, seed=seed, dev_score=score)
        for mode, score in (("full", 0.6), ("head", 0.5))
        for seed in range(3)
    ]

    def values_of(kept):
        return lambda rows: np.ones(50) if rows[0]["seed"] in kept else None

    for kept, known in (({0, 1, 2}, True), ({0}, False), (set(), False)):
        [group] = groups(rows, values_of=values_of(kept))
        assert (score_spread(*group.settings[:2]) is not None) is known


EXPENSIVE = {0: 1.1, 1: 0.95, 2: 0.95, 3: 1.4}
"""The memory and time of each seed, in place of 1."""


def costing(memory, *axes, seeds=(0, 1, 2)):
    times = {"ms_per_1k_tokens_ci_low": None, "ms_per_1k_tokens_ci_high": None}
    return [
        row(*axes, seed=seed, peak_rss_mib=memory * EXPENSIVE[seed], **times,
            ms_per_1k_tokens=memory / 10 * EXPENSIVE[seed])
        for seed in seeds
    ]  # fmt: skip


@pytest.mark.parametrize("seeds", [(0, 1, 2), (0, 1, 2, 3), (1, 2, 3), (0,), (2,)])
def test_costs_are_compared_and_ordered_over_common_seeds(seeds):
    """A setting with further, expensive seeds is not more expensive for that; one that lacks seeds
    has the costs of its own, and can't be recommended."""
    rows = [*costing(1000.0, "full"), *costing(990.0, *LORA, seeds=seeds)]
    rows += [*costing(970.0, "head"), *costing(980.0, "dora", 1, "attn-only")]
    group = one(rows)
    by_mode = {setting.mode: setting for setting in group.settings}
    for cost in ("memory", "time"):
        ratio = compare(group, cost, by_mode["lora"], by_mode["full"])
        assert ratio.value == pytest.approx(0.99)
        costs = {mode: cost_of(group, setting, cost) for mode, setting in by_mode.items()}
        if len(seeds) < 3:
            assert cost == "time" or costs["lora"] == pytest.approx(990 * EXPENSIVE[seeds[0]])
            continue
        assert sorted(costs, key=costs.get) == ["head", "dora", "lora", "full"]
        assert costs["lora"] / costs["full"] == pytest.approx(0.99, rel=1e-3)
    other = one([*costing(1000.0, "full", seeds=(0,)), *costing(990.0, *LORA, seeds=(1, 2))])
    assert compare(other, "memory", *other.settings) is None, "no seed in common"
