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


def memory_of(row):
    [group] = groups([row])
    return memory_parts(group, group.settings[0])


def step_of(*rows):
    [group] = groups(rows)
    return step_parts(group, group.settings[0])


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
    memory = memory_of(full(device="cuda:0", peak_cuda_allocated_mib=700.0))
    assert "libraries" not in memory.parts, "of a GPU's peak"
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
    row = full(**{column: None})
    assert memory_of(row) is None
    assert step_of(row) is not None


def test_one_setting_stands_for_each_mode_and_layer_set():
    """In the precision with most known parts, or in that of the recommended setting."""
    rows, parts = synthetic_rows(68, failures=False), {**ON_CPU, **OWNED, **STEP}
    [group] = groups(row | parts for row in rows)
    kinds = [f"{mode} rank 8 on {layers}, bf16" for mode in ("lora", "dora")
             for layers in ("attn-only", "attn", "all-lin-only", "all-lin")]  # fmt: skip
    names = {setting.label for setting in representatives(group)}
    assert names == {"full, fp32", "full, bf16", "head, bf16", *kinds}
    pick = next(s for s in group.settings if s.label == "lora rank 2 on attn, fp32")
    shown = representatives(group, pick)
    assert pick in shown
    assert "dora rank 8 on attn, fp32" in [setting.label for setting in shown]
    assert len(shown) == 11
    [group] = groups(row | parts if row.amp == "off" else row for row in rows)
    assert {s.amp for s in representatives(group) if s.mode != "full"} == {"off"}
    noise = random.Random(0)  # noqa: S311
    [group] = groups(result_row(cell("lora", rank, "attn", "off"), noise) for rank in (64, 4, 1))
    assert [setting.rank for setting in representatives(group)] == [4], "the nearest to 8"
