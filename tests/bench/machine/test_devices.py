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
from unittest import mock

import pytest
import torch

from bench.common.child import serve
from bench.common.errors import InputError
from bench.machine import conditions, gpu_trial
from bench.machine.conditions import find_conditions
from bench.machine.devices import Device, resolve_device, why_no_compiling
from bench.machine.gpu_trial import Answer, GpuInfo, check_by, why_unusable
from bench.plan.job import Job
from bench.worker import __main__ as worker
from bench.worker import run as running
from bench.worker.device import is_of_device
from bench.worker.probes.gpu import Gpu
from minbert import errors
from minbert.errors import is_out_of_memory
from minbert.training.compiled import errors_in_a_line
from tests.bench import fake_nvml
from tests.experiments.faults import gpu as known
from tests.experiments.faults.gpu import ALL, BUSY, FIRST, V100, FakeCuda, FakeNvml, GpuFault


def test_a_gpu_is_tried_once_and_an_instance_in_mig_mode_keeps_the_name_that_the_user_gave():
    """Torch gives an instance a UUID by which, as that of a GPU, nothing is shown."""
    check = FakeCuda(*ALL)
    device = GpuFault(check=check, visible="GPU-89aa,GPU-8932", device="cuda:1").resolve()
    assert check.asked == [("GPU-89aa,GPU-8932", 1)]
    assert (device.name, device.gpu.uuid) == ("cuda:1", FIRST.uuid)
    instance = FakeCuda(known.INSTANCE)
    fault = GpuFault(check=lambda _, index: instance(None, index), visible="MIG-1c,1")
    assert fault.resolve().gpu.uuid == "MIG-1c"


class Divided(FakeNvml):
    """GPUs of which the second is divided into instances; one place of three is empty."""

    NVMLError = KeyError
    nvmlDeviceGetHandleByIndex = nvmlDeviceGetUUID = staticmethod(lambda handle: handle)  # noqa: N815
    nvmlDeviceGetMaxMigDeviceCount = staticmethod(lambda gpu: 3 * gpu)  # noqa: N815
    nvmlDeviceGetMigDeviceHandleByIndex = staticmethod(  # noqa: N815
        lambda gpu, place: {(1, 0): "MIG-other", (1, 2): "MIG-wanted"}[gpu, place]
    )


@pytest.mark.parametrize(("size_mib", "name"), [(40_000, "MIG-wanted"), (20_000, "0")])
def test_an_instance_without_an_entry_is_named_by_nvml_if_there_is_one_of_its_kind(size_mib, name):
    def check(value, index):
        mib = {None: 40_000, "MIG-wanted": size_mib}.get(value, 10_000)
        return FakeCuda(replace(known.INSTANCE, memory_mib=mib))(None, index)

    assert GpuFault(nvml=Divided(*ALL), check=check).resolve().gpu.uuid == name


def several(requested, *gpus, **fault):
    return GpuFault("", FakeNvml(*gpus), FakeCuda(*gpus), device=requested, **fault).resolve_all()


def names(devices):
    return [device.name for device in devices]


def test_all_gpus_or_a_list_are_used_without_broken_ones_and_other_kinds_are_refused():
    gpus = FIRST, known.SECOND, replace(FIRST, uuid="GPU-3")
    assert names(several("all", *gpus, visible="2,1")) == ["cuda:0", "cuda:1"]
    check = FakeCuda(*gpus)
    devices = GpuFault(check=check, device="cuda:2,cuda:0").resolve_all()
    assert names(devices) == ["cuda:2", "cuda:0"]
    assert sorted(index for _, index in check.asked) == [0, 2]
    devices = several("all", V100, FIRST, replace(known.TAKEN, uuid="GPU-3"))
    assert names(devices) == ["cuda:1", "cuda:2"]
    left_out, busy = devices[0].notes
    assert left_out.startswith("cuda:0 is not used: Tesla V100 has compute capability 7.0")
    assert busy == f"cuda:2: NVIDIA A100 can't be used: {BUSY}; it is tried again as cells run"
    with pytest.raises(InputError, match=r"cuda:0: Tesla V100 has .* name other GPUs, or"):
        several("cuda:1,cuda:0", V100, FIRST)
    with pytest.raises(InputError, match="Tesla V100 has"):
        several("all", V100)
    smaller, other = replace(known.SECOND, memory_mib=40 * 2**10), replace(known.T4, uuid="GPU-4")
    with pytest.raises(InputError) as refused:
        several("all", FIRST, known.T4, smaller, other)
    assert str(refused.value) == (
        "--device all: times of different GPUs are not comparable; name those of one kind: cuda:0 "
        "(NVIDIA A100, 80 GiB); cuda:1,cuda:3 (Tesla T4, 80 GiB); cuda:2 (NVIDIA A100, 40 GiB)"
    )
    assert names(several("cuda:1,cuda:3", FIRST, known.T4, smaller, other))


@pytest.mark.parametrize(("requested", "gpus", "fault", "why"), [
    ("tpu", ALL, {}, "'tpu' is not auto, cpu, cuda or cuda:i, all or a list such"),
    ("cuda:-1", ALL, {}, "'cuda:-1' is not auto, cpu, cuda or cuda:i"),
    ("all", ALL, {"visible": ""}, "all is not there: CUDA_VISIBLE_DEVICES='' hides all GPUs; "
     "--device cpu --jobs N runs N cells at once on the CPU"),
    ("cuda:0,cuda:2", ALL, {}, "cuda:2 is not there: torch sees 2 GPUs; --device cpu runs"),
    ("cuda:0,cuda", ALL, {}, "cuda:0,cuda names a GPU twice"),
])  # fmt: skip
def test_names_of_no_device_are_a_line(requested, gpus, fault, why):
    with pytest.raises(InputError, match=re.escape(why)):
        several(requested, *gpus, **fault)
    for name in ("all", "cuda:0,cuda:1"):
        with pytest.raises(InputError, match="here it takes one device"):
            resolve_device(name, "13.0")


def test_without_nvml_the_driver_is_unknown_and_on_the_cpu_neither_it_nor_torch_is_asked():
    """Its version is known though its GPUs are not."""
    for call, version in (("nvmlInit", "unknown"), ("nvmlDeviceGetCount", FakeNvml().driver)):
        device = GpuFault("", FakeNvml(FIRST, errors={call: 999}), FakeCuda(FIRST)).resolve()
        assert (device.gpu.uuid, device.gpu.driver) == (FIRST.uuid, version)
    never, broken = mock.Mock(side_effect=AssertionError), FakeNvml(errors={"nvmlInit": 999})
    assert GpuFault("", broken, never, device="cpu").resolve().name == "cpu"
    assert GpuFault(check=never, visible="-1").resolve().name == "cpu"


def test_a_product_that_fails_or_is_wrong_is_a_failure_and_a_gpu_is_tried_anew(monkeypatch):
    ones = torch.ones
    assert gpu_trial.failures_on("cpu") == {}

    def fake(*size, dtype, device):
        if dtype == torch.bfloat16:
            raise RuntimeError(f"{known.NO_IMAGE}\nSearch for it")
        return ones(*size, dtype=dtype, device=device) * (2 if dtype == torch.float16 else 1)

    monkeypatch.setattr(torch, "ones", fake)
    failures = gpu_trial.failures_on("cpu")
    assert failures.pop("bf16") == known.NO_IMAGE
    assert failures.pop("fp16").startswith("a product of ones gave ")
    assert failures == {}
    monkeypatch.undo()
    answers = [known.WORKS, known.BROKEN, Answer(problem="none"), Answer(), InputError("no answer")]
    monkeypatch.setattr(gpu_trial, "check_gpu", check := mock.Mock(side_effect=answers))
    whys = [why_unusable(FIRST.uuid) for _ in answers]
    assert whys == [None, BUSY, "none", "torch sees none", "no answer"]
    check.assert_called_with(FIRST.uuid, 0)


def test_the_process_says_what_torch_sees(monkeypatch, capsys):
    properties = SimpleNamespace(
        name="Tesla T4", major=7, minor=5, uuid="75000000-0000", total_memory=15 * 2**30
    )
    for name, result in {
        "get_arch_list": ["sm_75", "sm_90a", "compute_120"], "init": None, "device_count": 1,
        "get_device_properties": properties,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *_, result=result: result)
    monkeypatch.setattr(gpu_trial, "failures_on", lambda device: {"bf16": f"not on {device}"})
    monkeypatch.setattr("sys.stdin", io.StringIO("0"))
    assert serve(lambda index: [gpu_trial.check(index)]) == 0
    code = f"print('chatter'); print({capsys.readouterr().out!r})"
    answer = check_by([sys.executable, "-S", "-c", code], os.environ)
    (gpu,) = answer.gpus
    assert (gpu.name, gpu.capability, gpu.uuid) == ("Tesla T4", (7, 5), "GPU-75000000-0000")
    assert gpu.kind == "Tesla T4, 15 GiB"
    assert answer.capabilities == ((7, 5), (9, 0), (12, 0))
    assert answer.failures == {"bf16": "not on cuda:0"}
    old = RuntimeError(f"{known.OLD}\nmore")
    monkeypatch.setattr(torch.cuda, "init", mock.Mock(side_effect=old))
    assert gpu_trial.check(0)["problem"] == known.OLD


def test_errors_of_the_device_differ_from_those_of_a_cell_and_of_memory(monkeypatch):
    cell = "Could not run 'aten::sort' with arguments from the 'CUDA' backend"
    for text in (BUSY, known.OLD, "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", cell):
        assert is_of_device(RuntimeError(text)) == (text != cell)
        assert not is_out_of_memory(RuntimeError(text))
    error = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`")
    for free_mib in (10, 1000):  # of which a library takes some
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda mib=free_mib: (mib * 2**20, 2**36))
        assert is_out_of_memory(error) == (free_mib < errors._LIBRARY_MIB)


@pytest.fixture
def ends(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "tie_to_parent", lambda: None)
    monkeypatch.setattr(worker, "import_all", lambda _: None)

    def ends(error, *, begins=True, device="cuda:0", gpu=None):
        """The result of a cell that begins, or begins to run, with an error."""
        monkeypatch.setattr(Job, "read", lambda _: SimpleNamespace(device=device))
        run = mock.Mock(columns={"startup_s": 2.5}, gpu=gpu, **{"run.side_effect": error})
        run.memory.return_value = {"peak_rss_mib": 1.0}
        begun = mock.Mock(return_value=run, side_effect=None if begins else error)
        monkeypatch.setattr(running, "CellRun", begun)
        assert worker.main(tmp_path) == 1
        result = json.loads((tmp_path / "result.json").read_text())
        return result["status"], result["device_failed"], result["message"], result["columns"]

    return ends


LACKS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total "),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../CUDACachingAllocator.cpp":1131'),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't "
                 "allocate memory: you tried to allocate 8589934592 bytes."),
    MemoryError(),
)  # fmt: skip
TOO_LARGE = (
    "out of resource: shared memory, Required: 131072, Hardware limit: 101376. Reducing block sizes"
)


@pytest.mark.parametrize("error", LACKS, ids=str)
def test_a_lack_of_memory_is_one_in_a_worker_and_while_compiling(error, ends):
    from torch._inductor.exc import InductorError

    assert ends(error)[:2] == ("oom", False)
    for raised in (error, InductorError(error, None)):
        with pytest.raises(type(error)) as caught, errors_in_a_line():
            raise raised
        assert caught.value is error


def test_a_kernel_too_large_for_a_gpu_is_neither_a_lack_of_memory_nor_of_a_compiler():
    """Triton compares its shared memory with that of a block, whatever memory is free."""
    from torch._inductor.exc import InductorError
    from torch._inductor.runtime.triton_compat import OutOfResources

    class Raised(OutOfResources):
        __init__ = Exception.__init__  # triton's own takes the numbers

        def __str__(self):
            return TOO_LARGE

    again = RuntimeError(f"No valid triton configs. OutOfResources: {TOO_LARGE}")
    for error in (Raised(), again, InductorError(again, None)):
        with pytest.raises(InputError, match=r"not fit on .*limit: 101376") as caught, (
            errors_in_a_line()
        ):  # fmt: skip
            raise error
        assert type(caught.value) is InputError
        assert not is_out_of_memory(caught.value)


def test_memory_that_others_hold_is_no_need_of_the_cell(ends):
    lack = RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    for used_mib, status in ((300, "oom"), (5000, "busy")):
        gpu = Gpu(fake_nvml.FakeNvml(MemoryInfo=fake_nvml.used(used_mib)), "GPU")
        assert ends(lack, gpu=gpu)[0] == status
        for on_host in LACKS[-2:]:
            assert ends(on_host, gpu=gpu)[0] == "oom"
    assert ends(lack, gpu=None)[0] == "oom"
    assert ends(lack, begins=False)[:3] == (
        "busy", False, f"other processes hold the GPU's memory: {lack}"
    )  # fmt: skip
    assert ends(MemoryError(), begins=False)[0] == "oom"
    assert ends(lack, begins=False, device="cpu")[0] == "oom"


def test_a_worker_marks_a_failure_of_the_device(ends, tmp_path):
    with pytest.raises(RuntimeError, match="a bug"):  # of the cell
        ends(RuntimeError("a bug"))
    assert not (tmp_path / "result.json").exists()
    status, of_device, _, columns = ends(RuntimeError(BUSY))
    assert (status, of_device, columns) == ("crashed", True, {"startup_s": 2.5})
    status, of_device, _, columns = ends(torch.OutOfMemoryError("CUDA out of memory."))
    assert (status, of_device) == ("oom", False)
    assert columns == {"startup_s": 2.5, "peak_rss_mib": 1.0}
    taken = ends(AssertionError("anything"), begins=False)
    assert taken == ("crashed", True, "the device failed: anything", {})
    with pytest.raises(AssertionError, match="anything"):
        ends(AssertionError("anything"), begins=False, device="cpu")
    late = torch.cuda.DeferredCudaCallError("CUDA call failed lazily\n\nCUDA call was originally")
    for begins in (True, False):
        assert ends(late, begins=begins)[:3] == (
            "crashed", True, "the device failed: CUDA call failed lazily"
        )  # fmt: skip
    assert ends(ImportError("libcuda.so"), begins=False)[2] == "the device failed: libcuda.so"
    with pytest.raises(InputError, match="no such task"):
        ends(InputError("no such task"), begins=False)


A100 = known.FakeGpu("GPU-8932f937")


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


def test_what_is_missing_to_compile_for_a_gpu_is_named(complete, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(A100))
    monkeypatch.setattr(conditions, "torch_build", lambda: ("2.13.1+cu130", "13.0"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("bench.machine.devices.check_gpu", FakeCuda(A100))
    assert find_conditions("auto").no_compiling == ""
    assert find_conditions("cpu").no_compiling == "a CPU gains nothing"

    def why(version="2.13.1+cu130", capability=(8, 0)):
        gpu = GpuInfo("NVIDIA A100", "580", capability, A100.uuid)
        return why_no_compiling(Device("cuda:0", gpu), version)

    assert why("3.0.0a0") == ""
    assert why("2.9.1+cu130") == "torch 2.9.1+cu130 is too old"
    assert why(capability=(7, 0)) == ""
    assert why(capability=(6, 2)) == "NVIDIA A100 is too old for triton"
    for compiler in ("clang", "/opt/cc"):
        monkeypatch.setattr(shutil, "which", lambda name, there=compiler: name == there)
        monkeypatch.setenv("CC", "/opt/cc")
        assert why() == ""
    monkeypatch.delenv("CC")
    assert why() == "a C compiler is missing"
    monkeypatch.setattr(shutil, "which", lambda name: name == "gcc")
    (complete / "Python.h").unlink()
    assert why() == "Python.h is missing"
    monkeypatch.setitem(sys.modules, "triton", None)
    assert why() == "triton is missing"
