"""An attempt at a cell on another device than it was planned for."""

import json
from dataclasses import replace

import pytest

from bench.launch.attempt import Attempt
from bench.machine.devices import Device
from bench.machine.gpu_trial import GpuInfo
from tests.bench.workloads import workload
from tests.experiments.faults.setups import setup

OLD_GPU = Device("cuda:0", GpuInfo("an old GPU", "1", (7, 5), "GPU-1", 16_000))


def run_of(*, is_on):
    job = workload(device="cpu", compile_why="auto: no GPU")
    cell = replace(job.cell, mode="head", amp="bf16", frozen_dtype="bf16", unfreeze=None)
    return Attempt(job=replace(job, cell=cell), grid="g", dev_examples={}, amp_is_on=is_on)


@pytest.mark.parametrize(("is_on", "amp"), [(True, "fp16"), (False, "bf16")])
def test_amp_on_is_the_usual_type_of_the_device_and_a_named_type_stays(is_on, amp):
    target = replace(setup("fake").target("GPU-1", OLD_GPU), amp_on="fp16")
    run = run_of(is_on=is_on)
    there = run.on(target)
    assert (there.job.cell.amp, there.job.cell.frozen_dtype) == (amp, amp)
    assert (there.job.cell.cell_id != run.job.cell.cell_id) == is_on
    assert there.job.conditions_id == target.conditions.conditions_id
    assert Attempt.from_values(json.loads(json.dumps(there.values()))) == there


def test_compile_auto_is_resolved_where_it_runs():
    target = setup("fake").target("cpu")
    there = run_of(is_on=False).on(target).job.cell
    assert there.compile == "off"
    assert there.compile_why == f"auto: {target.no_compiling}"
