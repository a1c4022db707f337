"""Where a setting's memory and its steps go; snapshots/why.txt has the parts themselves."""

import pytest

from bench.analysis.breakdown import memory_parts, representatives, step_parts
from bench.analysis.groups import groups
from tests.bench.synthetic_rows import cell, result_row, synthetic_rows

MEMORY = {
    "weights_mib": 86.0, "gradients_mib": 80.0, "optimizer_mib": 160.0, "activations_mib": 300.0,
    "peak_rss_mib": 1000.0, "peak_anon_mib": 900.0, "imports_anon_mib": 150.0,
}  # fmt: skip
PARTS = MEMORY | {"step_ms_median": 100.0, "ms_per_1k_tokens": 50.0, "forward_ms": 30.0,
                  "backward_ms": 60.0, "optimizer_ms": 10.0}  # fmt: skip


def full(seed=0, **columns):
    return result_row(cell("full", None, None, "off", seed)) | PARTS | columns


def test_runs_without_the_parts_of_a_step_count_for_the_time():
    """As of before schema 9."""
    older = full(**dict.fromkeys(("forward_ms", "backward_ms", "optimizer_ms")))
    [group] = groups([older, full(1, ms_per_1k_tokens=60.0), full(2, ms_per_1k_tokens=70.0)])
    step = step_parts(group, group.settings[0])
    assert (step.total, step.parts["backward"]) == pytest.approx((60.0, 36.0))


@pytest.mark.parametrize("column", MEMORY)
def test_without_a_column_the_parts_of_memory_are_unknown(column):
    [group] = groups([full(**{column: None})])
    assert memory_parts(group, group.settings[0]) is None


def test_one_setting_stands_for_each_mode_and_layer_set():
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
    [group] = groups(result_row(cell("lora", rank, "attn", "off")) for rank in (64, 4, 1))
    assert [setting.rank for setting in representatives(group)] == [4], "the nearest to 8"
