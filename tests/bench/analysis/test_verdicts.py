"""Which rows are compared, which setting is best, which differences are significant, and where a
setting's memory and its steps go, whose parts are in snapshots/why.txt."""

import pytest

from bench.analysis import verdicts
from bench.analysis.breakdown import memory_parts, representatives
from bench.analysis.costs import cost_of
from bench.analysis.groups import groups
from bench.analysis.verdicts import best_by_score, compare, pareto, rank_effect
from tests.bench.synthetic_rows import cell, failed_row, result_row, synthetic_rows

LORA = ("lora", 1, "attn-only")
EXPENSIVE = {0: 1.1, 1: 0.95, 2: 0.95, 3: 1.4}  # memory and time of each seed, in place of 1
MEMORY = {
    "weights_mib": 86.0, "gradients_mib": 80.0, "optimizer_mib": 160.0, "activations_mib": 300.0,
    "peak_rss_mib": 1000.0, "peak_anon_mib": 900.0, "imports_anon_mib": 150.0,
}  # fmt: skip
PARTS = MEMORY | {"step_ms_median": 100.0, "ms_per_1k_tokens": 50.0, "forward_ms": 30.0,
                  "backward_ms": 60.0, "optimizer_ms": 10.0}  # fmt: skip


def row(mode="full", rank=None, layers=None, amp="off", seed=0, settings=None, **figures):
    return result_row(cell(mode, rank, layers, amp, seed, **(settings or {})), **figures)


def one(rows):
    [group] = groups(rows)
    return group


def test_ranks_and_effects_do_not_mix_types_of_frozen_weights():
    rows = [row(peak_rss_mib=1000.0), row(amp="bf16", peak_rss_mib=800.0)]
    rows += [row(*LORA, peak_rss_mib=600.0), row("lora", 8, "attn-only", peak_rss_mib=600.0)]
    for frozen, memory, score in (("fp32", 500.0, 0.5), ("bf16", 100.0, 0.7)):
        figures = {"peak_rss_mib": memory, "dev_score": score, "frozen_dtype": frozen}
        rows += [row("lora", r, "attn-only", "bf16", cell_id=f"{r} {frozen}", **figures)
                 for r in (1, 8)]  # fmt: skip
    group = one(rows)
    assert [effect["both"] for effect in verdicts.effects(group, "memory")] == pytest.approx([0.5])
    assert len(verdicts.amp_ratios(group, "memory")) == 3
    some_in_one = one([r for r in rows if r["frozen_dtype"] != "bf16" or r["rank"] == 8])
    for of, pairs in ((group, 3), (some_in_one, 2)):
        effect = rank_effect(of)
        assert (effect["pairs"], effect["mean"]) == (pairs, pytest.approx(0.0))
    assert rank_effect(one([row(), row(*LORA)])) is None, "one rank"


def test_one_seed_has_its_own_interval_and_several_that_of_their_mean_within_the_metrics_ends():
    def score(*scores, **own):
        rows = [row(seed=seed, dev_score=score, **own) for seed, score in enumerate(scores)]
        return one(rows).settings[0].estimate("dev_score")

    assert score(0.5, dev_ci_low=0.47, dev_ci_high=0.53).ends() == (0.47, 0.53)
    both = score(0.5, 0.51)
    assert (both.value, both.low) == pytest.approx((0.505, 0.505 - 12.7062 * 0.005))
    collapsed = score(0.0, 0.93, 0.95)
    assert (collapsed.value, *collapsed.ends()) == pytest.approx((0.627, 0.0, 1.0), abs=1e-3)


def test_where_full_fine_tuning_alone_learned_nothing_is_best_by_score():
    rows = [row(dev_score=0.5), row("head", dev_score=0.9, flags="not_learned", peak_rss_mib=1.0)]
    assert best_by_score(one([*rows, row(*LORA, dev_score=0.6)])).mode == "lora"
    assert best_by_score(one([failed_row(cell(*LORA, "off"), "timeout", "late")])) is None
    group = one(rows)
    assert not group.learned
    assert best_by_score(group) is None
    assert pareto(group, "memory") == []
    assert one([row(), row(amp="bf16")]).learned, "of full fine-tuning alone, by what it learned"
    for flags in ([None, "not_learned"], ["not_learned"] * 2):
        some = [row(settings={"folds": 3, "fold": i}, flags=flags[i]) for i in (0, 1)]
        assert one(some).learned is (None in flags), "most of the folds so far"
    both = [row("lora", rank, "attn-only", flags="not_learned") for rank in (1, 8)]
    assert rank_effect(one([row(), row("head"), *both])) is None, "of these neither learned"


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
    assert verdicts.better_worse(group, gaps) == (0, 2)


def costing(memory, *axes, seeds=(0, 1, 2)):
    times = {"ms_per_1k_tokens_ci_low": None, "ms_per_1k_tokens_ci_high": None}
    return [
        row(*axes, seed=seed, peak_rss_mib=memory * EXPENSIVE[seed], **times,
            ms_per_1k_tokens=memory / 10 * EXPENSIVE[seed])
        for seed in seeds
    ]  # fmt: skip


@pytest.mark.parametrize("seeds", [(0, 1, 2), (0, 1, 2, 3), (1, 2, 3), (0,), (2,)])
def test_costs_are_compared_and_ordered_over_common_seeds(seeds):
    """Expensive further seeds make no setting dearer; one that lacks seeds has costs of its own."""
    rows = [*costing(1000.0, "full"), *costing(990.0, *LORA, seeds=seeds)]
    rows += [*costing(970.0, "head"), *costing(980.0, "dora", 1, "attn-only")]
    group = one(rows)
    by_mode = {setting.mode: setting for setting in group.settings}
    for cost in ("memory", "time"):
        assert compare(group, cost, by_mode["lora"], by_mode["full"]).value == pytest.approx(0.99)
        costs = {mode: cost_of(group, setting, cost) for mode, setting in by_mode.items()}
        if len(seeds) < 3:
            assert cost == "time" or costs["lora"] == pytest.approx(990 * EXPENSIVE[seeds[0]])
            continue
        assert sorted(costs, key=costs.get) == ["head", "dora", "lora", "full"]
        assert costs["lora"] / costs["full"] == pytest.approx(0.99, rel=1e-3)
    other = one([*costing(1000.0, "full", seeds=(0,)), *costing(990.0, *LORA, seeds=(1, 2))])
    assert compare(other, "memory", *other.settings) is None, "no seed in common"


def test_one_setting_stands_for_each_mode_and_layer_set_and_needs_all_columns_of_memory():
    """In the precision with most known parts, or in that of the recommended setting."""
    rows = synthetic_rows(68, failures=False)
    [group] = groups(row | PARTS for row in rows)
    kinds = [f"{mode} rank 8 on {layers}, bf16" for mode in ("lora", "dora")
             for layers in ("attn-only", "attn", "all-lin-only", "all-lin")]  # fmt: skip
    names = {setting.label for setting in representatives(group)}
    assert names == {"full, fp32", "full, bf16", "head, bf16", *kinds}
    pick = next(s for s in group.settings if s.label == "lora rank 2 on attn, fp32")
    shown = representatives(group, pick)
    assert pick in shown
    assert "dora rank 8 on attn, fp32" in [setting.label for setting in shown]
    assert len(shown) == 11
    [group] = groups(row | PARTS if row.amp == "off" else row for row in rows)
    assert {s.amp for s in representatives(group) if s.mode != "full"} == {"off"}
    [group] = groups(row("lora", rank, "attn") for rank in (64, 4, 1))
    assert [setting.rank for setting in representatives(group)] == [4], "the nearest to 8"
    for column in MEMORY:
        [group] = groups([row(**PARTS | {column: None})])
        assert memory_parts(group, group.settings[0]) is None
