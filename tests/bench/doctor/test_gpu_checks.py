"""Checks of a GPU, with a GPU that is none: each verdict both ways."""

import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from bench.common.errors import InputError
from bench.doctor import models
from bench.doctor.check import FAILED, OK, Context, SkipError
from bench.doctor.checks import gpu as one_gpu
from bench.doctor.checks import steps as gpu_steps
from bench.machine.conditions import find_conditions
from bench.machine.devices import Device, Driver
from bench.machine.environment import VISIBLE
from bench.machine.gpu_trial import GpuInfo
from bench.worker.probes.gpu import BY_DEVICE
from minbert.kernels.reference import is_reference
from minbert.training.trainer import Trainer
from tests.bench.fake_nvml import FakeNvml, process, used
from tests.bench.pretended_gpu import NAME, pretended_gpu
from tests.experiments.faults.setups import slots_of

HERE = Context("cuda:0", 1, "bf16", Path(), ("off", "bf16", "fp16"))
MIB = 2**20


@pytest.fixture
def gpu(monkeypatch):
    with pretended_gpu(monkeypatch, lambda _event: None):
        yield


A100 = Device("cuda:0", GpuInfo("A100", "580.1", (8, 0), NAME))
FIGURES = {
    "gpu": "A100", "driver": "580.1", "cuda_of_torch": "13.0", "nvml": "answers", "doubts": {},
    "ecc_errors": 0,
}  # fmt: skip


@pytest.mark.parametrize(("device", "figures", "verdict", "text"), [
    (A100, {}, OK, "A100, driver 580.1, CUDA 13.0"),
    (A100, {"nvml": "NVML: Not@Target", "gpu": "A100 MIG 1g.5gb"}, OK,
     "a MIG instance, of which NVML says little: some columns stay empty; NVML: NVML: Not@T"),
    (replace(A100, failures={"fp16": "no kernel image"}), {}, FAILED, "amp fp16 can't compute"),
    (replace(A100, failures={"off": "no kernel image"}), {}, FAILED, "amp off can't compute"),
    (replace(A100, gpu=GpuInfo("T4", "580", (7, 5), NAME)), {}, OK, "bf16 is emulated"),
])  # fmt: skip
def test_what_a_gpu_says_is_judged(device, figures, verdict, text):
    finding = one_gpu.judge_driver(device, FIGURES | figures)
    assert (finding.verdict, bool(finding.remedy)) == (verdict, verdict == FAILED)
    assert text in finding.summary
    assert finding.is_advice == (device.failures.keys() == {"fp16"})


def look_at(monkeypatch, device=A100, **answers):
    monkeypatch.setattr(one_gpu, "resolve_device", lambda _name, _cuda: device)
    monkeypatch.setattr(one_gpu, "read_driver", lambda: Driver("580.1", 1))
    for name, value in {"_WARM_UP_S": 0.0, "_SAMPLE_S": 0.0, "_SIZE": 1}.items():
        monkeypatch.setattr(one_gpu, name, value)
    nvml = FakeNvml(NAME, **answers)
    nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED = nvml.NVML_VOLATILE_ECC = 1
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return one_gpu.driver(HERE)


@pytest.mark.parametrize(("answers", "text"), [
    ({"TotalEccErrors": 0}, ""),
    ({}, ""),  # a GPU without ECC
    ({"TotalEccErrors": 3}, "3 uncorrected memory errors"),
    ({"ComputeRunningProcesses": [process(os.getpid(), 400), process(1, 900)]},
     "other processes used the GPU"),
    ({"CurrentClocksEventReasons": 0x40},
     "flagged throttled: the GPU was slowed: heat (hardware)"),
])  # fmt: skip
def test_a_gpu_is_looked_at_while_it_works(gpu, monkeypatch, answers, text):
    order, of, work = [], one_gpu.Gpu.of, one_gpu._work
    monkeypatch.setattr(one_gpu.Gpu, "of", lambda device: (order.append("gpu"), of(device))[1])
    monkeypatch.setattr(one_gpu, "_work", lambda *given: (order.append("work"), work(*given)))
    finding = look_at(monkeypatch, **answers)
    assert finding.verdict == (FAILED if text else OK)
    assert text in finding.summary
    assert finding.figures["ecc_errors"] == answers.get("TotalEccErrors")
    assert finding.figures["looks"]["looks"] == one_gpu.SAMPLES
    assert order == ["gpu", *["work"] * (1 + one_gpu.SAMPLES)], "read before it is used here"
    busy = RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nmore")
    monkeypatch.setattr(one_gpu, "_work", mock.Mock(side_effect=busy))
    with pytest.raises(SkipError, match="in use by others: CUDA error"):
        look_at(monkeypatch, replace(A100, notes=("cuda:0: busy; it is tried again",)))
    with pytest.raises(RuntimeError, match="busy"):
        look_at(monkeypatch)


class Memory:
    """GPU memory as torch and the driver count it, MiB. A block is allocated by `empty`."""

    def __init__(self, patch):
        self.block, self.peak, self.left = 0.0, 0.0, 0.0
        self.counted = self.reserved = self.driver = 1.0
        self.resets = True
        empty = torch.empty

        def allocate(*of, **more):
            self.block = self.peak = 256.0
            return empty(1, **{**more, "dtype": torch.uint8})

        def clear():
            self.block = min(self.block, self.left)

        def reset(_device):
            self.peak = self.block if self.resets else self.peak

        for name, value in {
            "empty_cache": clear,
            "reset_peak_memory_stats": reset,
            "max_memory_allocated": lambda _device: int((1 + self.counted * self.peak) * MIB),
            "max_memory_reserved": lambda _device: int((2 + self.reserved * self.peak) * MIB),
            "mem_get_info": lambda _device: (int((4000 - self.used) * MIB), 8000 * MIB),
        }.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch, "empty", allocate)
        nvml = FakeNvml(NAME, MemoryInfo=lambda: used(int(self.used)))
        patch.setitem(sys.modules, "pynvml", nvml)

    @property
    def used(self):
        return 402 + self.driver * self.block


@pytest.mark.parametrize(("name", "value", "text"), [
    ("counted", 1.0, ""),
    ("counted", 0.5, "allocated rises by 128 MiB, not 256"),
    ("reserved", 0.0, "reserved rises by 0 MiB"),
    ("driver", 0.85, "process rises by 217 MiB, not 256"),
    ("resets", False, "allocated ends changed by 256 MiB, not 0"),
    ("left", 256.0, "process ends changed by 256 MiB"),
])  # fmt: skip
def test_a_figure_of_memory_that_is_wrong_is_named(gpu, monkeypatch, name, value, text):
    setattr(Memory(monkeypatch), name, value)
    finding = one_gpu.memory(HERE)
    rise = finding.figures["allocated_during_mib"] - finding.figures["allocated_before_mib"]
    assert finding.verdict == (FAILED if text else OK), finding.summary
    assert text in finding.summary
    assert text or rise == 256


def test_memory_that_is_not_reported(gpu, monkeypatch):
    Memory(monkeypatch)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(NAME, MemoryInfo=None))
    finding = one_gpu.memory(HERE)
    assert finding.verdict == OK
    assert "(process not reported)" in finding.summary
    assert BY_DEVICE not in finding.summary
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _device: 0)
    with pytest.raises(SkipError, match="PYTORCH_NO_CUDA_MEMORY_CACHING"):
        one_gpu.memory(HERE)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (100 * MIB, 8000 * MIB))
    with pytest.raises(SkipError, match="it needs 512 MiB of GPU memory, and 100 are free"):
        one_gpu.memory(HERE)


@pytest.fixture
def modes(gpu, monkeypatch):
    """The modes that were set, in which steps of one mode on the CPU are taken."""
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(models, "SETTINGS", (("head", None),))
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: True)
    monkeypatch.setattr(gpu_steps, "find_spec", lambda _name: None)
    step = Trainer.step

    def on_cpu(trainer, batch):
        trainer.device, trainer.amp, trainer.scaler = torch.device("cpu"), "off", None
        return step(trainer, batch)

    monkeypatch.setattr(Trainer, "step", on_cpu)
    return modes


def test_steps_do_not_wait_or_are_named_with_their_place(modes, monkeypatch):
    set_up, during, step, text = [], [], Trainer.step, ""
    monkeypatch.setattr(models, "set_up_device", lambda device: set_up.append(str(device)))

    def watched(*of):
        during.append(modes[-1] if modes else "")
        if text and during[-1] == "error" and len(modes) == 3:
            raise RuntimeError(text)
        return step(*of)

    monkeypatch.setattr(Trainer, "step", watched)
    finding = gpu_steps.synchronisation(HERE)
    assert finding.verdict == OK
    assert "no step of 3 settings waits" in finding.summary
    assert set_up == ["cuda:0"] * 3
    assert modes == ["error", "default"] * 3
    assert during[:4] == ["", "", "error", "error"], "first steps may wait"

    modes.clear()
    text = "called a synchronizing CUDA operation"
    finding = gpu_steps.synchronisation(HERE)
    assert finding.verdict == FAILED
    assert "head amp bf16 in tests/bench/doctor/test_gpu_checks.py:" in finding.summary
    assert modes[-1] == "default"
    modes.clear()
    text = "CUDA error: an illegal memory access was encountered"
    with pytest.raises(RuntimeError, match="illegal memory access"):
        gpu_steps.synchronisation(HERE)


@pytest.mark.parametrize(("kernels", "busy_ms", "reference_ms", "text", "remedy"), [
    (420, 9.0, 10.0, "busy for 90% of it: launching does not limit it", ""),
    (580, 9.0, 10.0, "launches 580 kernels", ""),
    (420, 3.0, 10.0, "30% of it: launching limits it, and compile = true can pay", ""),
    *((n, 9.0, 10.0, "forecasts count 400", "trust no forecast") for n in (620, 360)),
    (420, 9.0, 9.0, "(9.0 by plain torch)", 'set kernels = "reference"'),
])  # fmt: skip
def test_load_is_judged(kernels, busy_ms, reference_ms, text, remedy):
    finding = gpu_steps.judge_load(10.0, kernels, busy_ms, 400, reference_ms)
    assert finding.verdict == (FAILED if remedy else OK)
    assert text in finding.summary
    assert finding.remedy.startswith(remedy)


def test_kernels_are_those_of_the_profile_without_copies(gpu, monkeypatch):
    def event(name, kind="CUDA", note=False):
        return SimpleNamespace(
            name=name, device_type=SimpleNamespace(name=kind), is_user_annotation=note,
            time_range=SimpleNamespace(elapsed_us=lambda: 100.0),
        )  # fmt: skip

    events = [event("Memcpy HtoD"), event("aten::mm", "CPU"), event("ProfilerStep", note=True)]
    profiled, taken = SimpleNamespace(events=lambda: events), []

    def trainer(_model, amp):
        step = lambda _batch: (taken.append((amp, is_reference())), torch.ones(2) + 1)[1]  # noqa: E731
        return SimpleNamespace(step=step, device=torch.device(HERE.device))

    batch = SimpleNamespace(tokens=1, padded=1, labels=[0])
    monkeypatch.setattr(models, "profile", lambda **_of: nullcontext(profiled))
    monkeypatch.setattr(models, "small_model", lambda *_of: None)
    monkeypatch.setattr(models, "small_batch", lambda *_of: batch)
    monkeypatch.setattr(models, "small_trainer", trainer)
    with pytest.raises(SkipError, match="the profiler sees no kernels"):
        gpu_steps.load(HERE)
    steps = [("bf16", True)] * (1 + gpu_steps.STEPS) + [("bf16", False)] * (3 + gpu_steps.STEPS)
    assert taken == steps, "two more of fast kernels are counted and profiled"
    events += [event("gemm")] * 2
    finding = gpu_steps.load(HERE)
    assert (finding.figures["kernels"], finding.figures["kernels_ms"]) == (2, pytest.approx(0.2))
    assert finding.figures["operators_counted"] == 2
    # a millisecond is between two events of this GPU
    assert finding.figures["step_ms"] == finding.figures["reference_ms"] == 1.0


@pytest.mark.parametrize(("alone", "together", "verdict", "text"), [
    ((10, 10.5, 10), (10.2, 10.6, 10.1), OK, "on 3 GPUs alone, and at most 1.02"),
    ((10, 13.0, 10), (10.2, 13.1, 10.1), FAILED, "times as long as cuda:0: cuda:1 1.30"),
    ((10, 10.5, 10), (10.2, 10.6, 12.5), FAILED, "1.25 times as long on all at once (cuda:2)"),
])  # fmt: skip
def test_a_gpu_that_is_slow_alone_or_beside_others_is_named(alone, together, verdict, text):
    for i, work in enumerate(gpu_steps.WORK):
        times = [
            {f"cuda:{n}": tuple(each if k == i else 5.0 for k in range(3)) for n, each in of}
            for of in (enumerate(alone), enumerate(together))
        ]
        finding = gpu_steps.judge_gpus(*times)
        assert finding.verdict == verdict
        assert text in finding.summary
        assert work in finding.summary
    assert ("--device cuda:0,cuda:2" in finding.remedy) == ("cuda:1 1.30" in text)


STEPS = """
import os, sys
gpu, cores = os.environ["CUDA_VISIBLE_DEVICES"], sorted(os.sched_getaffinity(0))
print(flush=True)
for number, _ in enumerate(sys.stdin):
    print({"GPU-0": 10.0, "GPU-1": 20.0}[gpu] + number + cores[0] / 1000, 1.0, 2.0, flush=True)
"""


def gpus(monkeypatch, number):
    """GPUs that are found, each with a core, as far as there are several."""
    lanes = slots_of(find_conditions("cpu").conditions, number, gpus=True)
    monkeypatch.setattr(gpu_steps, "find_slots", lambda _name: lanes)
    monkeypatch.setenv(VISIBLE, "GPU-0")
    return lanes


def test_each_gpu_takes_steps_alone_and_then_with_the_others(monkeypatch):
    before = os.sched_getaffinity(0)
    lanes = gpus(monkeypatch, 2)
    monkeypatch.setattr(gpu_steps, "COMMAND", (sys.executable, "-S", "-c", STEPS))
    finding = gpu_steps.several_gpus(replace(HERE, visible="0,1"))
    assert os.environ[VISIBLE] == "0,1", "the user's, and not the one GPU of a check"
    first, second = (min(lane.cores) / 1000 for lane in lanes)
    works = {"alone_ms": (10, 20), "together_ms": (11, 21)}
    for name, ms in works.items():
        each = {"cuda:0": (ms[0] + first, 1.0, 2.0), "cuda:1": (ms[1] + second, 1.0, 2.0)}
        assert finding.figures[name] == each
    assert os.sched_getaffinity(0) == before

    monkeypatch.setattr(gpu_steps, "COMMAND", (sys.executable, "-c", "raise OSError('no GPU')"))
    with pytest.raises(SkipError, match="steps on cuda:0 fail: OSError: no GPU"):
        gpu_steps.several_gpus(HERE)
    gpus(monkeypatch, 1)
    assert gpu_steps.several_gpus(HERE).verdict == OK
    refused = InputError("--device all: times of different GPUs are not comparable")
    monkeypatch.setattr(gpu_steps, "find_slots", mock.Mock(side_effect=refused))
    with pytest.raises(SkipError, match="times of different GPUs"):
        gpu_steps.several_gpus(HERE)


def test_steps_of_the_check_are_timed_for_each_line(gpu, monkeypatch, capsys):
    ticks = iter(range(1000))
    monkeypatch.setattr(gpu_steps.time, "perf_counter", lambda: next(ticks) / 1000)
    for name in ("small_model", "small_batch"):
        monkeypatch.setattr(models, name, lambda *_of: None)
    trainer = SimpleNamespace(step=lambda _batch: None)
    monkeypatch.setattr(models, "small_trainer", lambda *_of: trainer)
    small = {"_WINDOW_S": 0.0035, "_WARM_UP_S": 0.0035, "_SIDE": 2, "_COPIED": 2}
    for name, value in small.items():
        monkeypatch.setattr(gpu_steps, name, value)
    monkeypatch.setattr(sys, "stdin", iter(["\n", "\n"]))
    gpu_steps.main()
    first, *lines = capsys.readouterr().out.split("\n")[:-1]
    assert first == ""
    assert [float(n) for line in lines for n in line.split()] == pytest.approx([5 / 3] * 6)
