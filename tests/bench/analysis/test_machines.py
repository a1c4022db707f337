"""Two machines, compared through the settings that both ran."""

import numpy as np
import pytest

from bench.analysis.comparison import Limits, Verdict, compare
from bench.results.outcomes import no_values
from tests.bench.analysis.test_comparison import FULL, LORA, RSS, TIME, run

THERE = {"machine": "EPYC, 64 cores, 256 GiB", "conditions_id": "there", "threads": 64}
GPU = THERE | {"device": "cuda:0", "device_name": "H100", "peak_cuda_allocated_mib": 400.0}
BF16 = ("full", None, None, "bf16")


def rows(times, place=None, repeats=4, std=0.01, seed=0):
    rng = np.random.default_rng(seed)
    return [
        run(axes, repeat=k + 1, **{TIME: time * np.exp(rng.normal(0, std))}, **place or {})
        for axes, time in times.items()
        for k in range(repeats)
    ]


def of(base, new):
    return compare(base, new, Limits(), values_of=(no_values, no_values))


def costs(machines):
    return {(row.label, cost.column): cost for row in machines.rows for cost in row.costs}


def costs_of(comparison):
    every = (one for pair in comparison.pairs for one in pair.compared)
    return {(one.verdict, one.why) for one in every if one.measure.kind != "score"}


HERE_TIMES = {FULL: 100.0, BF16: 80.0, LORA: 60.0}
THERE_TIMES = {FULL: 20.0, BF16: 8.0, LORA: 12.0}


def test_settings_are_compared_in_absolute_figures_and_by_what_they_gain():
    found = of(rows(HERE_TIMES), rows(THERE_TIMES, THERE, seed=1))
    by_label = costs(found.machines)
    labels = ("full, fp32", "full, bf16", "lora rank 4 on attn-only, bf16")
    full, bf16, lora = (by_label[label, TIME] for label in labels)
    assert full.absolute.value == pytest.approx(0.2, rel=0.02)
    assert full.normalised is None
    assert bf16.normalised.high < 0.6, "bf16 gains twice as much there"
    assert bf16.normalised.value == pytest.approx(0.5, rel=0.03)
    assert lora.normalised.low < 1 < lora.normalised.high
    assert by_label["full, bf16", RSS].absolute.value == 1
    assert found.machines.new == "EPYC, 64 cores, 256 GiB, 64 threads"
    assert found.machines.why == ""


def test_absolute_times_have_the_drift_between_sessions_and_ratios_to_full_have_not():
    exact, several, single = (
        costs(of(rows(HERE_TIMES, **noise), rows(THERE_TIMES, THERE, seed=1, **noise)).machines)[
            "full, bf16", TIME
        ]
        for noise in ({"std": 1e-4}, {}, {"repeats": 1})
    )
    absolute, *widths = (
        interval.high / interval.low
        for interval in (exact.absolute, exact.normalised, several.normalised, single.normalised)
    )
    assert absolute > 1.2
    assert widths[0] < 1.01
    assert widths == sorted(widths)
    assert widths[-1] > 1.5


def test_machines_never_gate_and_need_full_fine_tuning_in_fp32_for_ratios():
    found = of(rows(THERE_TIMES, THERE), rows(HERE_TIMES))
    assert not found.regressions
    assert costs_of(found) == {(Verdict.NOT_COMPARED, "measured on other machines")}
    assert found.machines.rows
    without = of(rows({BF16: 80.0}), rows({BF16: 8.0}, THERE)).machines
    assert {cost.normalised for cost in costs(without).values()} == {None}
    assert "full fine-tuning in fp32" in without.why


def test_memory_is_compared_on_devices_of_one_type_alone():
    found = of(rows(HERE_TIMES), rows(THERE_TIMES, GPU))
    assert {column for _, column in costs(found.machines)} == {TIME}
    assert "memory on a cpu and on a cuda is not comparable" in found.machines.why
    assert found.machines.new.startswith("H100 in EPYC")
    other = rows(THERE_TIMES, GPU | {"device_name": "A100", "conditions_id": "a100"})
    found = of(other, rows(THERE_TIMES, GPU))
    assert {column for _, column in costs(found.machines)} == {TIME, "peak_cuda_allocated_mib"}


def test_cells_measured_beside_others_are_not_compared_with_cells_alone():
    shared = {"sharing": "2 workers", "conditions_id": "shared", "threads": 1}
    found = of(rows(HERE_TIMES), rows(THERE_TIMES, shared))
    assert found.machines is None
    assert {why for _, why in costs_of(found)} == {"one measured while other cells ran"}
    assert "sharing" in {name for name, _, _ in found.differs}
    alike = of(rows(HERE_TIMES, shared), rows(THERE_TIMES, shared))
    [machine] = {pair.machine for pair in alike.pairs}
    assert machine == "Xeon 2.8 GHz, 2 cores, 16 GiB, 1 threads, 2 workers"


def test_other_ways_of_measuring_are_left_out():
    found = of(rows(HERE_TIMES), rows(THERE_TIMES, THERE | {"measurement_version": 2}))
    assert found.machines is None
    mixed = [*rows({FULL: 20.0}, THERE), *rows({BF16: 8.0}, THERE | {"measurement_version": 2})]
    machines = of(rows({FULL: 100.0, BF16: 80.0}), mixed).machines
    assert [row.label for row in machines.rows] == ["full, fp32"]
    assert "1 setting was left out" in machines.why
    other = rows({FULL: 50.0}, {"machine": "third", "conditions_id": "third"}, repeats=2)
    machines = of([*other, *rows(HERE_TIMES)], rows(THERE_TIMES, THERE)).machines
    assert machines.base == "Xeon 2.8 GHz, 2 cores, 16 GiB, 2 threads", "that with the most runs"
    assert "of several machines" in machines.why
