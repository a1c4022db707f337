"""GPUs as their driver shows them: plain ones, MIG instances, in containers, with errors."""

import os
import sys
from unittest import mock

import pytest
import torch

from bench.worker.probes.gpu import Gpu
from bench.worker.probes.machine import MachineWatch, energy
from bench.worker.probes.memory import cuda_peaks_mib
from tests.bench.fake_nvml import ANSWERS, FakeNvml, process, used
from tests.bench.worker.test_probes import rapl

MIB = 2**20
UUID = "8932f937-d72c-4106-c12f-20bd9faed9f6"
DEVICE = torch.device("cuda:0")


def looked(nvml, *after):
    """The GPU, looked at once before each of some changes and once after the last."""
    gpu = Gpu(nvml, "GPU")
    gpu.look()
    for answers in after:
        nvml.answers |= answers
        gpu.look()
    return gpu


@pytest.mark.parametrize(("visible", "known", "handle"), [
    (f"MIG-{UUID}", f"MIG-{UUID}", f"MIG-{UUID}"),
    (f"GPU-{UUID}", "GPU-of-another", None),
    (None, f"GPU-{UUID}", None),
])  # fmt: skip
def test_a_gpu_is_known_by_its_name_in_the_environment(monkeypatch, visible, known, handle):
    """Torch is not asked: it would make its context first, whose memory counts as the cell's."""
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(known))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpu = Gpu.of(DEVICE)
    assert gpu is not None
    assert gpu._handle == handle
    assert Gpu.of(torch.device("cpu")) is None


@pytest.mark.parametrize("question", ANSWERS)
def test_a_question_without_an_answer_leaves_that_figure_empty(question, tmp_path):
    nvml = FakeNvml(ComputeRunningProcesses=[process(os.getpid(), 700)])
    nvml.answers[question] = None
    with energy(Gpu(nvml, "GPU"), tmp_path) as drawn:
        gpu = looked(nvml, {})
    assert gpu.doubts == {}
    figures = {
        "TotalEnergyConsumption": drawn.joules is not None,
        "ClockInfo": "sm_clock_mhz" in gpu.report,
        "Temperature": "temperature_c" in gpu.report,
        "PowerUsage": "power_mw" in gpu.report,
        "ComputeRunningProcesses": gpu.memory.get("process_vram_source") == "nvml-process",
    }
    assert figures == {name: name != question for name in figures}


@pytest.mark.parametrize("gpu", [Gpu(), Gpu(FakeNvml(**dict.fromkeys(ANSWERS)), "MIG")])
def test_a_gpu_that_answers_nothing_has_no_figures_and_not_the_processors_energy(gpu, tmp_path):
    """As a MIG instance does, or where there is no NVML."""
    rapl(tmp_path, 0, 100)
    with energy(gpu, tmp_path) as drawn:
        gpu.look()
    assert (drawn.joules, drawn.source) == (None, None)
    assert (gpu.memory, gpu.doubts) == ({}, {})
    nvml = FakeNvml()
    with energy(Gpu(nvml, "GPU"), tmp_path) as drawn:
        nvml.answers["TotalEnergyConsumption"] = 7_500
    assert (drawn.joules, drawn.source) == (pytest.approx(2.5), "nvml")


def test_others_hold_memory_beside_that_of_the_process_or_before_it_began():
    pid, began = os.getpid(), used(300)
    for own, now, others in (
        (process(pid, 70_000), 79_000, True), (process(pid, 78_000), 79_000, False),
        (process(1, 78_000), 79_000, False),  # not known by its id
    ):  # fmt: skip
        nvml = FakeNvml(MemoryInfo=began)
        gpu = looked(nvml, {"MemoryInfo": used(now), "ComputeRunningProcesses": [own]})
        assert gpu.is_held_by_others is others
    assert looked(FakeNvml(MemoryInfo=used(5000)), {"MemoryInfo": used(79_000)}).is_held_by_others
    assert not Gpu().is_held_by_others, "nothing is known"


def test_memory_is_the_processs_and_others_on_the_gpu_disturb():
    gpu = looked(FakeNvml(ComputeRunningProcesses=[process(os.getpid(), 700), process(1, 50)]))
    assert gpu.memory == {"peak_process_vram_mib": 700.0, "process_vram_source": "nvml-process"}
    assert gpu.doubts == {"disturbed": "other processes used the GPU"}
    # in a container the driver knows this process by the host's number, or by none
    nvml = FakeNvml(ComputeRunningProcesses=[process(77, None)])
    gpu = looked(nvml, {"MemoryInfo": used(1800)}, {"MemoryInfo": used(1500)})
    assert gpu.memory == {"peak_process_vram_mib": 800.0, "process_vram_source": "nvml-device"}
    assert gpu.doubts == {}


@pytest.mark.parametrize("name", ["CurrentClocksEventReasons", "CurrentClocksThrottleReasons"])
def test_reasons_are_named_by_old_and_new_drivers_and_idle_is_none(name):
    nvml = FakeNvml(CurrentClocksEventReasons=None)
    nvml.answers[name] = 0x1
    gpu = looked(nvml)
    assert gpu.doubts == {}
    nvml.answers[name] = 0x8 | 0x40
    gpu.look()
    slowed = "the GPU was slowed: hardware slowdown, heat (hardware)"
    assert gpu.doubts == {"throttled": slowed}
    nvml.answers[name] = 0
    for _ in range(50):
        gpu.look()
    assert gpu.doubts == {}
    assert gpu.report["throttle_reasons"] == {"hardware slowdown": 1, "heat (hardware)": 1}
    assert gpu.report["sm_clock_mhz"] == {"least": 1980, "median": 1980, "most": 1980}


def test_clocks_that_fell_are_a_doubt_unless_by_a_power_cap():
    """A T4 begins at its highest clock and comes down to what its 70 W allow."""
    fallen = {"ClockInfo": 900}
    gpu = looked(FakeNvml(ClockInfo=1590), *[fallen | {"CurrentClocksEventReasons": 0x4}] * 20)
    assert gpu.doubts == {}
    assert gpu.report["throttle_reasons"] == {"power cap": 20}
    assert gpu.report["sm_clock_mhz"]["median"] == 900
    gpu = looked(FakeNvml(ClockInfo=1590), *[fallen] * 20)
    assert gpu.doubts == {"throttled": "the GPU's clocks fell to 57%"}


@pytest.mark.parametrize(("gpu", "doubted"), [(None, True), (Gpu(), False)])
def test_cores_that_rest_while_a_gpu_works_are_no_doubt(monkeypatch, gpu, doubted):
    clocks = iter([3000.0, 1000.0, 1000.0])
    monkeypatch.setattr("bench.worker.probes.machine._frequencies", lambda: [next(clocks)])
    monkeypatch.setattr("bench.worker.probes.machine.LOOK_S", 0.0)
    with MachineWatch(gpu) as watch:
        watch.look()
        watch.look()
    assert ("clocks fell" in watch.doubts.get("throttled", "")) is doubted


@pytest.mark.parametrize(("allocated", "reserved", "can_list", "graphs", "peaks"), [
    (75, 180, True, True, (75 + 70 + 20, 180)),  # what the allocator counts in pools, once
    (75, 180, True, False, (75, 180)),
    (75, 180, False, True, (None, 180)),  # as `backend:cudaMallocAsync`
    (0, 0, True, False, (None, None)),  # with PYTORCH_NO_CUDA_MEMORY_CACHING
])  # fmt: skip
def test_peaks_are_with_pools_of_graphs(monkeypatch, allocated, reserved, can_list, graphs, peaks):
    sizes = ((0, 0), 60, 40), ((0, 1), 100, 30), ((0, 2), 20, 0)
    pools = [
        {"segment_pool_id": pool, "total_size": total * MIB, "allocated_size": own * MIB}
        for pool, total, own in sizes
    ]
    snapshot = mock.Mock(return_value=pools, side_effect=None if can_list else RuntimeError)
    monkeypatch.setattr(torch.cuda, "memory_snapshot", snapshot)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: allocated * MIB)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _device: reserved * MIB)
    names = ("peak_cuda_allocated_mib", "peak_cuda_reserved_mib")
    expected = {name: mib for name, mib in zip(names, peaks, strict=True) if mib is not None}
    assert cuda_peaks_mib(DEVICE, graphs=graphs) == expected
