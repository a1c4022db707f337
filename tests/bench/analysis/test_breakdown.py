"""Where a setting's memory and its steps go."""

import random

import pytest

from bench.analysis.breakdown import memory_parts, representatives, step_parts
from bench.analysis.groups import groups
from tests.bench.synthetic_rows import cell, result_row, synthetic_rows

OWNED = {
    "weights_mib": 86.0, "gradients_mib": 80.0, "optimizer_mib": 160.0, "activations_mib": 300.0,
}  # fmt: skip
ON_CPU = {"peak_rss_mib": 1000.0, "peak_anon_mib": 900.0, "imports_anon_mib": 150.0}
STEP = {"step_ms_median": 100.0, "ms_per_1k_tokens": 50.0, "forward_ms": 30.0,
        "backward_ms": 60.0, "optimizer_ms": 10.0}  # fmt: skip


def group_of(*rows):
    [group] = groups(rows)
    return group


def memory_of(*rows):
    group = group_of(*rows)
    parts = memory_parts(group, group.settings[0])
    assert parts is not None
    return parts


def step_of(*rows):
    group = group_of(*rows)
    parts = step_parts(group, group.settings[0])
    assert parts is not None
    return parts


def full(seed=0, **columns):
    row = result_row(cell("full", None, None, "off", seed), random.Random(seed))  # noqa: S311
    return row | {**ON_CPU, **OWNED, **STEP, **columns}


def test_the_parts_of_memory_add_up_to_the_peak_and_what_exceeds_it():
    memory = memory_of(full())
    assert memory.parts == {
        "libraries": 250.0, "weights": 86.0, "optimizer": 160.0, "gradients": 80.0,
        "activations": 300.0, "rest": 124.0,
    }  # fmt: skip
    assert (sum(memory.parts.values()), memory.total, memory.excess) == (1000.0, 1000.0, 0.0)
    memory = memory_of(full(activations_mib=500.0))
    assert (memory.parts["rest"], memory.excess) == (0.0, 76.0)
    assert sum(memory.parts.values()) == memory.total + memory.excess


def test_on_a_gpu_libraries_are_not_in_the_peak():
    memory = memory_of(full(device="cuda:0", peak_cuda_allocated_mib=700.0))
    assert "libraries" not in memory.parts
    assert memory.parts["rest"] == 700.0 - sum(OWNED.values())


def test_the_parts_of_a_step_are_of_the_time_that_is_compared():
    """Runs without the parts, as of before schema 9, count for the time."""
    step = step_of(full())
    assert step.total == pytest.approx(50.0)
    assert step.parts == pytest.approx({"forward": 15.0, "backward": 30.0, "optimizer": 5.0})
    older = full(**dict.fromkeys(("forward_ms", "backward_ms", "optimizer_ms")))
    step = step_of(older, full(1, ms_per_1k_tokens=60.0), full(2, ms_per_1k_tokens=70.0))
    assert (step.total, step.parts["backward"]) == pytest.approx((60.0, 36.0))


@pytest.mark.parametrize("column", [*OWNED, *ON_CPU])
def test_without_a_column_the_parts_of_memory_are_unknown(column):
    group = group_of(full(**{column: None}))
    assert memory_parts(group, group.settings[0]) is None
    assert step_parts(group, group.settings[0]) is not None


def test_one_setting_stands_for_each_mode_and_layer_set():
    group = group_of(*synthetic_rows(68, failures=False))
    names = [setting.label for setting in representatives(group)]
    kinds = [f"{mode} rank 8 on {layers}, bf16" for mode in ("lora", "dora")
             for layers in ("attn-only", "attn", "all-lin-only", "all-lin")]  # fmt: skip
    assert sorted(names) == sorted(["full, fp32", "full, bf16", "head, bf16", *kinds])


def test_the_precision_is_that_with_most_known_parts():
    rows = [
        row | {**ON_CPU, **OWNED, **STEP} if row.amp == "off" else row
        for row in synthetic_rows(68, failures=False)
    ]
    assert {s.amp for s in representatives(group_of(*rows)) if s.mode != "full"} == {"off"}


def test_the_recommended_setting_stands_for_its_kind_in_its_precision():
    rows = [row | {**ON_CPU, **OWNED, **STEP} for row in synthetic_rows(68, failures=False)]
    group = group_of(*rows)
    pick = next(s for s in group.settings if s.label == "lora rank 2 on attn, fp32")
    shown = representatives(group, pick)
    assert pick in shown
    assert "dora rank 8 on attn, fp32" in [setting.label for setting in shown]
    assert len(shown) == 11


def test_the_rank_is_the_nearest_to_the_usual_one():
    noise = random.Random(0)  # noqa: S311
    rows = [result_row(cell("lora", rank, "attn", "off"), noise) for rank in (64, 4, 1)]
    assert [setting.rank for setting in representatives(group_of(*rows))] == [4]
