"""The device of a run: chosen, tried before anything runs, and its faults in one line."""

import importlib.machinery
import io
import json
import os
import re
import shutil
import sys
import sysconfig
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.common.child import serve
from bench.common.errors import InputError
from bench.machine import conditions, gpu_check, gpu_trial
from bench.machine.conditions import find_conditions
from bench.machine.devices import Device, resolve_device, why_no_compiling
from bench.machine.environment import VISIBLE
from bench.machine.gpu_trial import Answer, GpuInfo, check_by, why_unusable
from bench.plan.cell import Columns
from bench.plan.job import Job
from bench.worker import __main__ as worker
from bench.worker import failures, lifeline
from bench.worker import run as running
from bench.worker.failures import is_of_device, is_out_of_memory
from tests.experiments.faults.fake_driver import FakeCuda, FakeGpu, FakeNvml
from tests.experiments.faults.gpu import (
    ALL,
    BROKEN,
    BUSY,
    FAILED,
    FAULTS,
    FIRST,
    INSTANCE,
    NO_IMAGE,
    OLD,
    SECOND,
    T4,
    TAKEN,
    V100,
    WORKS,
    GpuFault,
    cuda,
    grid_on_broken_device,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_gpu_fault_is_one_line_or_does_no_harm(fault):
    outcome = fault.outcome()
    assert fault.gives in outcome
    assert "\n" not in outcome
    if outcome.startswith("exit code 2"):
        assert outcome.endswith(("--device cpu runs on the CPU", "with --select"))
    else:
        assert ("cpu" if "runs on cpu" in outcome else "cuda:") in outcome


def test_a_gpu_is_tried_once_and_workers_see_it_by_its_uuid():
    check = cuda(*ALL)
    device = GpuFault("", "", check=check, visible="GPU-89aa,GPU-8932", device="cuda:1").resolve()
    assert check.asked == [("GPU-89aa,GPU-8932", 1)]
    assert (device.name, device.gpu and device.gpu.uuid) == ("cuda:1", FIRST.uuid)


@pytest.mark.parametrize(
    ("visible", "name"), [(None, "0"), ("MIG-1c83a9d0", "MIG-1c83a9d0"), ("0,1", "0")]
)
def test_an_instance_in_mig_mode_keeps_the_name_that_the_user_gave(visible, name):
    """Torch gives an instance a UUID by which, as that of a GPU, nothing is shown."""

    def check(value, index):
        return cuda(INSTANCE)(None, index) if value == visible else Answer(problem="none")

    device = GpuFault("", "", check=check, visible=visible).resolve()
    assert device.gpu is not None
    assert device.gpu.uuid == name


class Divided(FakeNvml):
    """GPUs of which the second is divided into instances; one place of three is empty."""

    NVMLError = KeyError

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu):  # noqa: N802
        return 3 * gpu

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu, place):  # noqa: N802
        return {(1, 0): "MIG-other", (1, 2): "MIG-wanted"}[gpu, place]

    def nvmlDeviceGetUUID(self, instance):  # noqa: N802
        return instance


@pytest.mark.parametrize(("size_mib", "name"), [(40_000, "MIG-wanted"), (20_000, "0")])
def test_an_instance_without_an_entry_is_named_by_nvml_if_there_is_one_of_its_kind(size_mib, name):
    def check(value, index):
        mib = {None: 40_000, "MIG-wanted": size_mib}.get(value, 10_000)
        answer = cuda(INSTANCE)(None, index)
        return replace(answer, gpus=(replace(answer.gpus[0], memory_mib=mib),))

    device = GpuFault("", "", nvml=Divided(*ALL), check=check).resolve()
    assert device.gpu is not None
    assert device.gpu.uuid == name


def several(requested, *gpus, **fault):
    """The devices that a name stands for on a machine with some GPUs."""
    machine = GpuFault("", "", FakeNvml(*gpus), cuda(*gpus), device=requested, **fault)
    return machine.resolve_all()


def names(devices):
    return [device.name for device in devices]


def test_all_gpus_and_a_list_are_checked_and_used():
    gpus = FIRST, SECOND, replace(FIRST, uuid="GPU-3")
    devices = several("all", *gpus)
    assert names(devices) == ["cuda:0", "cuda:1", "cuda:2"]
    assert [device.gpu and device.gpu.uuid for device in devices] == [gpu.uuid for gpu in gpus]
    assert names(several("cuda:2,cuda:0", *gpus)) == ["cuda:2", "cuda:0"]
    assert names(several("all", *gpus, visible="2,1")) == ["cuda:0", "cuda:1"]
    assert names(several("all", FIRST)) == ["cuda:0"]
    check = cuda(*gpus)
    GpuFault("", "", FakeNvml(*gpus), check, device="cuda:2,cuda:0").resolve_all()
    assert sorted(index for _, index in check.asked) == [0, 2]


def test_of_all_gpus_broken_ones_are_left_out_and_those_of_another_kind_refused():
    devices = several("all", V100, FIRST, replace(TAKEN, uuid="GPU-3"))
    assert names(devices) == ["cuda:1", "cuda:2"]
    left_out, busy = devices[0].notes
    assert left_out.startswith("cuda:0 is not used: Tesla V100 has compute capability 7.0")
    assert busy == f"cuda:2: NVIDIA A100 can't be used: {BUSY}; it is tried again as cells run"
    with pytest.raises(InputError, match=r"cuda:0: Tesla V100 has .* name other GPUs, or"):
        several("cuda:1,cuda:0", V100, FIRST)
    with pytest.raises(InputError, match="Tesla V100 has"):
        several("all", V100)
    smaller, other = replace(SECOND, memory_mib=40 * 2**10), replace(T4, uuid="GPU-4")
    with pytest.raises(InputError) as refused:
        several("all", FIRST, T4, smaller, other)
    assert str(refused.value) == (
        "--device all: times of different GPUs are not comparable; name those of one kind: cuda:0 "
        "(NVIDIA A100, 80 GiB); cuda:1,cuda:3 (Tesla T4, 80 GiB); cuda:2 (NVIDIA A100, 40 GiB)"
    )
    assert names(several("cuda:1,cuda:3", FIRST, T4, smaller, other))


@pytest.mark.parametrize(
    ("requested", "gpus", "fault", "why"),
    [
        *((name, ALL, {}, f"{name!r} is not auto, cpu, cuda or cuda:i")
          for name in ("tpu", "cuda:x", "cpu:1", "cuda:-1", "")),
        ("all", ALL, {"visible": ""}, "all is not there: CUDA_VISIBLE_DEVICES='' hides all GPUs; "
         "--device cpu --jobs N runs N cells at once on the CPU"),
        ("all", ALL, {"build": None}, "built without CUDA; --device cpu --jobs N runs N cells"),
        ("cuda:0,cuda:2", ALL, {}, "cuda:2 is not there: torch sees 2 GPUs; --device cpu runs"),
        ("cuda:0,cuda", ALL, {}, "cuda:0,cuda names a GPU twice"),
        ("cuda:0,cpu", ALL, {},
         "'cuda:0,cpu' is not auto, cpu, cuda or cuda:i, all or a list such"),
        ("all", (), {}, "mend that, or --device cpu --jobs N runs"),
    ],
)  # fmt: skip
def test_names_of_no_device_are_a_line(requested, gpus, fault, why):
    with pytest.raises(InputError, match=re.escape(why)):
        several(requested, *gpus, **fault)


@pytest.mark.parametrize("name", ["all", "cuda:0,cuda:1"])
def test_where_one_device_is_taken_several_are_refused(name):
    with pytest.raises(InputError, match="here it takes one device"):
        resolve_device(name, "13.0", cuda(*ALL))


@pytest.mark.parametrize(
    ("call", "version"), [("nvmlInit", "unknown"), ("nvmlDeviceGetCount", FakeNvml().driver)]
)
def test_without_nvml_the_driver_is_unknown(call, version):
    """Its version is known though its GPUs are not."""
    device = GpuFault("", "", FakeNvml(FIRST, errors={call: 999}), cuda(FIRST)).resolve()
    assert device.gpu is not None
    assert (device.gpu.uuid, device.gpu.driver) == (FIRST.uuid, version)


def test_on_the_cpu_neither_nvml_nor_torch_is_asked():
    def never(*_):
        raise AssertionError

    broken = FakeNvml(errors={"nvmlInit": 999})
    assert GpuFault("", "", broken, never, device="cpu").resolve().name == "cpu"
    assert GpuFault("", "", check=never, visible="-1").resolve().name == "cpu"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (WORKS, None),
        (BROKEN, BUSY),
        (Answer(problem="none"), "none"),
        (Answer(), "torch sees none"),
    ],
)
def test_a_gpu_is_tried_anew_after_a_cell_failed(monkeypatch, answer, why):
    asked: list[tuple[str | None, int]] = []

    def check(value, index):
        asked.append((value, index))
        return answer

    monkeypatch.setattr(gpu_trial, "check_gpu", check)
    assert [why_unusable(FIRST.uuid) for _ in range(2)] == [why, why]
    assert asked == [(FIRST.uuid, 0)] * 2


# The process that tries a GPU


def test_a_product_that_fails_or_is_wrong_is_a_failure(monkeypatch):
    ones = torch.ones

    assert gpu_check.failures_on("cpu") == {}

    def fake(*size, dtype, device):
        if dtype == torch.bfloat16:
            raise RuntimeError(f"{NO_IMAGE}\nSearch for it")
        return ones(*size, dtype=dtype, device=device) * (2 if dtype == torch.float16 else 1)

    monkeypatch.setattr(torch, "ones", fake)
    failures = gpu_check.failures_on("cpu")
    assert failures.pop("bf16") == NO_IMAGE
    assert failures.pop("fp16").startswith("a product of ones gave ")
    assert failures == {}


def test_the_process_says_what_torch_sees(monkeypatch, capsys):
    class Properties:
        name, major, minor, uuid = "Tesla T4", 7, 5, "75000000-0000"
        total_memory = 15 * 2**30

    for name, result in {
        "get_arch_list": ["sm_75", "sm_90a", "compute_120"], "init": None, "device_count": 1,
        "get_device_properties": Properties,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *_, result=result: result)
    monkeypatch.setattr(gpu_check, "failures_on", lambda device: {"bf16": f"not on {device}"})
    monkeypatch.setattr("sys.stdin", io.StringIO("0"))
    assert serve(lambda index: [gpu_check.check(index)]) == 0
    code = f"print('chatter'); print({capsys.readouterr().out!r})"
    answer = check_by([sys.executable, "-S", "-c", code], os.environ)
    (gpu,) = answer.gpus
    assert (gpu.name, gpu.capability, gpu.uuid) == ("Tesla T4", (7, 5), "GPU-75000000-0000")
    assert gpu.kind == "Tesla T4, 15 GiB"
    assert answer.capabilities == ((7, 5), (9, 0), (12, 0))
    assert answer.failures == {"bf16": "not on cuda:0"}
    monkeypatch.setattr(torch.cuda, "init", raising(RuntimeError(f"{OLD}\nand more")))
    assert gpu_check.check(0)["problem"] == OLD


# The device fails while a cell runs


def raising(error):
    def call(*_, **__):
        raise error

    return call


class CodedError(RuntimeError):
    """As torch.AcceleratorError."""

    def __init__(self, code):
        super().__init__("CUDA error: something")
        self.error_code = code


@pytest.mark.parametrize(
    ("error", "of_device"),
    [
        (CodedError(719), True), (CodedError(214), True), (CodedError(46), True),
        (RuntimeError(NO_IMAGE), True), (RuntimeError(BUSY), True), (RuntimeError(OLD), True),
        (RuntimeError("CUDA error: unspecified launch failure"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RuntimeError("Could not run 'aten::sort' with arguments from the 'CUDA' backend"), False),
    ],
)  # fmt: skip
def test_errors_of_the_device_differ_from_those_of_a_cell(error, of_device):
    assert is_of_device(error) == of_device
    assert not is_out_of_memory(error)


def test_out_of_memory_is_no_failure_of_the_device(monkeypatch):
    for text in (
        "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDA driver error: out of memory", "Triton Error [CUDA]: out of memory",
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":1131',
    ):  # fmt: skip
        assert is_out_of_memory(RuntimeError(text))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    error = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`")
    for free_mib in (10, 1000):  # of which a library takes some
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda mib=free_mib: (mib * 2**20, 2**36))
        assert is_out_of_memory(error) == (free_mib < failures._LIBRARY_MIB)


class Running:
    """A cell's run that fails in the middle."""

    def __init__(self, error):
        self.run = raising(error)
        self.columns: Columns = {"startup_s": 2.5}

    def memory(self):
        return {"peak_rss_mib": 1.0}


@pytest.fixture
def ends(tmp_path, monkeypatch):
    """Runs a worker whose cell begins, or begins to run, with an error; its result."""
    monkeypatch.setattr(lifeline, "attach", lambda: None)
    monkeypatch.setattr(worker, "import_all", lambda _: None)

    def ends(error, *, begins=True, device="cuda:0"):
        monkeypatch.setattr(Job, "read", lambda _: SimpleNamespace(device=device))
        begun = (lambda *_: Running(error)) if begins else raising(error)
        monkeypatch.setattr(running, "CellRun", begun)
        assert worker.main(tmp_path) == 1
        result: dict[str, Any] = json.loads((tmp_path / "result.json").read_text())
        return result

    return ends


def test_a_worker_marks_a_failure_of_the_device(tmp_path, ends):
    with pytest.raises(RuntimeError, match="a bug"):  # of the cell
        ends(RuntimeError("a bug"))
    assert not (tmp_path / "result.json").exists()
    result = ends(CodedError(719))
    assert (result["status"], result["device_failed"]) == ("crashed", True)
    assert result["columns"] == {"startup_s": 2.5}
    result = ends(torch.OutOfMemoryError("CUDA out of memory."))
    assert (result["status"], result["device_failed"]) == ("oom", False)
    assert result["columns"] == {"startup_s": 2.5, "peak_rss_mib": 1.0}
    result = ends(AssertionError("anything"), begins=False)  # as the GPU is taken
    assert (result["status"], result["device_failed"]) == ("crashed", True)
    assert (result["message"], result["columns"]) == ("the device failed: anything", {})
    result = ends(torch.OutOfMemoryError("CUDA out of memory."), begins=False)
    assert (result["status"], result["device_failed"]) == ("oom", False)
    with pytest.raises(AssertionError, match="anything"):
        ends(AssertionError("anything"), begins=False, device="cpu")


def test_a_worker_that_can_not_get_hold_of_the_gpu_ends_the_grid_with_one_line(tmp_path):
    ended = grid_on_broken_device(tmp_path, BROKEN)
    message = f"the device failed: {BUSY}"
    assert ended.rows == (("crashed", message),)
    assert ended.code == 1
    (line,) = (line for line in ended.lines if line.startswith("stopped: "))
    assert line.startswith(
        f"stopped: {message} (cuda:1), and tried again: {BUSY}; look at it with nvidia-smi and "
        "dmesg; "
    )
    assert not [line for line in ended.lines if "Traceback" in line]
    (command,) = tmp_path.glob("runs/*/command.txt")
    assert f"{VISIBLE}={FIRST.uuid} " in command.read_text()
    (job,) = tmp_path.glob("runs/*/cell.json")
    assert json.loads(job.read_text())["device"] == "cuda:0"


A100 = FakeGpu("GPU-8932f937")
NEW = "2.13.1+cu130"


def test_an_error_that_ends_with_its_process_leaves_the_grid_going(tmp_path):
    ended = grid_on_broken_device(tmp_path, WORKS, FAILED)
    message = "the device failed: CUDA error: an illegal memory access"
    assert ended.rows == (("crashed", message),) * 3
    assert ended.code == 1
    assert not [line for line in ended.lines if line.startswith("stopped: ")]
    assert len([line for line in ended.lines if "another process can use the GPU" in line]) == 3


@pytest.fixture
def complete(monkeypatch, tmp_path):
    """All that compiling for a GPU needs, as stand-ins; the folder of Python.h."""
    (tmp_path / "Python.h").touch()
    triton = importlib.machinery.ModuleSpec("triton", None)
    monkeypatch.setitem(sys.modules, "triton", type(sys)("triton"))
    monkeypatch.setattr(sys.modules["triton"], "__spec__", triton, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/gcc" if name == "gcc" else None)
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path))
    return tmp_path


def device(capability=(8, 0)):
    return Device("cuda:0", GpuInfo("NVIDIA A100", "580", capability, A100.uuid))


def test_on_a_gpu_with_a_compiler_it_pays(complete, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(A100))
    monkeypatch.setattr(conditions, "torch_build", lambda: (NEW, "13.0"))
    monkeypatch.delenv(VISIBLE, raising=False)
    assert find_conditions("auto", FakeCuda((A100,))).no_compiling == ""
    assert find_conditions("cpu").no_compiling == "a CPU gains nothing"


def test_what_is_missing_is_named(complete, monkeypatch):
    assert why_no_compiling(device(), NEW) == ""
    assert why_no_compiling(device(), "3.0.0a0") == ""
    assert why_no_compiling(device(), "2.9.1+cu130") == "torch 2.9.1+cu130 is too old"
    assert why_no_compiling(device((6, 1)), NEW) == "NVIDIA A100 is too old for triton"
    assert why_no_compiling(device((7, 0)), NEW) == ""
    assert why_no_compiling(device((6, 2)), NEW) == "NVIDIA A100 is too old for triton"
    for compiler in ("clang", "/opt/cc"):
        monkeypatch.setattr(shutil, "which", lambda name, there=compiler: name == there)
        monkeypatch.setenv("CC", "/opt/cc")
        assert why_no_compiling(device(), NEW) == ""
    monkeypatch.delenv("CC")
    assert why_no_compiling(device(), NEW) == "a C compiler is missing"
    monkeypatch.setattr(shutil, "which", lambda name: name == "gcc")
    (complete / "Python.h").unlink()
    assert why_no_compiling(device(), NEW) == "Python.h is missing"
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert why_no_compiling(device(), NEW) == "a C compiler is missing"
    monkeypatch.setitem(sys.modules, "triton", None)
    assert why_no_compiling(device(), NEW) == "triton is missing"
