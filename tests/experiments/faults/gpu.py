"""GPU faults, whose outcomes docs/reliability.md lists. A driver and GPUs are tables: NVML as the
module `pynvml` shows it, and CUDA as torch does."""

import os
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from bench.common.errors import InputError
from bench.launch.checks import amp_notes, check_amp
from bench.machine import devices, gpu_trial
from bench.machine.conditions import Target
from bench.machine.devices import Device, resolve_devices
from bench.machine.environment import VISIBLE
from bench.machine.gpu_trial import Answer, GpuInfo, check_by
from bench.plan.gridfile import Axes, Grid
from bench.plan.planning import plan
from bench.results.store import read_rows
from tests.bench.synthetic_rows import cell
from tests.experiments.faults.parent import stub_report
from tests.experiments.faults.setups import ROOT, setup

BUILT = ((7, 5), (8, 0), (9, 0), (12, 0))


@dataclass(frozen=True)
class FakeGpu:
    uuid: str
    name: str = "NVIDIA A100"
    capability: tuple = (8, 0)
    failures: dict = field(default_factory=dict)  # as of `Answer`
    memory_mib: int = 80 * 2**10
    near: object = ()  # the hardware threads near it


class FakeNvml:
    """NVML of a driver with some GPUs. `errors` maps the names of calls to the error they raise."""

    class NVMLError(Exception):
        def __init__(self, value):
            super().__init__(f"error {value}")
            self.value = value

    def __init__(self, *gpus, driver="580.65", errors=None):
        self.gpus, self.driver = gpus, driver
        for name, value in (errors or {}).items():
            assert callable(getattr(self, name))
            setattr(self, name, mock.Mock(side_effect=self.NVMLError(value)))

    def nvmlInit(self): ...  # noqa: N802
    def nvmlShutdown(self): ...  # noqa: N802

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return self.driver

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        return next(gpu for gpu in self.gpus if gpu.uuid == uuid)

    def nvmlDeviceGetCpuAffinity(self, gpu, words):  # noqa: N802
        return [sum(1 << n % 64 for n in gpu.near if n // 64 == word) for word in range(words)]


class FakeCuda:
    """Stands for `check_gpu`. `answer` has the failures, and the problem that leaves no GPUs."""

    def __init__(self, *gpus, **answer):
        self.gpus, self.asked = gpus, []
        self.answer = Answer(capabilities=BUILT, **answer)

    def __call__(self, value, index):
        self.asked.append((value, index))
        if self.answer.problem:
            return self.answer
        keys = list(range(len(self.gpus)))  # of the GPUs that torch counts
        if value is not None:
            with mock.patch.dict(os.environ, {VISIBLE: value}):
                keys = torch.cuda._parse_visible_devices()
        if keys and isinstance(keys[0], str):
            uuids = [gpu.uuid for gpu in self.gpus]
            keys = torch.cuda._transform_uuid_to_ordinals(keys, uuids)
        seen = [self.gpus[key] for key in takewhile(lambda key: key < len(self.gpus), keys)]
        gpus = tuple(GpuInfo(g.name, "", g.capability, g.uuid, g.memory_mib) for g in seen)
        problem = "" if gpus else "No CUDA GPUs are available"
        failures = {**self.answer.failures, **(seen[index].failures if index < len(seen) else {})}
        return replace(self.answer, gpus=gpus, problem=problem, failures=failures)


FIRST = FakeGpu("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6")
SECOND = FakeGpu("GPU-89aa0000-1111-2222-3333-444444444444")
V100 = FakeGpu(
    "GPU-70000000-0000", "Tesla V100", (7, 0), failures={"off": "CUDA error: no kernel image"}
)
T4 = FakeGpu("GPU-75000000-0000", "Tesla T4", (7, 5))
INSTANCE = FakeGpu("GPU-c0de0000-5555", "NVIDIA A100 MIG 3g.40gb")
ALL = (FIRST, SECOND)

NO_IMAGE = "CUDA error: no kernel image is available for execution on the device"
BUSY = "CUDA error: CUDA-capable device(s) is/are busy or unavailable"
OLD = "The NVIDIA driver on your system is too old (found version 12040)."
TAKEN = replace(FIRST, failures={"off": BUSY})
NOT_LOADED, NO_LIBRARY, MISMATCH, UNKNOWN = 9, 12, 18, 999


@dataclass(frozen=True)
class GpuFault:
    """A machine with something wrong: its driver, its GPUs as torch sees them, what is asked for.
    `control` is the file, of `bench.machine.devices`, through which programs access the driver."""

    name: str = ""
    nvml: FakeNvml | None = None  # by default of the GPUs
    check: object = None  # a `check_gpu`, by default of the GPUs
    visible: str | None = None
    device: str = "auto"
    build: str | None = "13.0"
    control: str = ""
    amp: str = "off"
    gpus: tuple = ALL

    def outcome(self):
        cells = [cell("full", None, None, self.amp)]
        try:
            device = self.resolve()
            check_amp(cells, Grid(name="mine", cells=[Axes(mode=["full"])]), device)
        except InputError as error:
            return f"exit code 2: {error}"
        where = f"runs on {device.name}"
        where += "" if device.gpu is None else f", {device.gpu.name} ({device.gpu.uuid})"
        notes = [*device.notes, *amp_notes(cells, device)]
        return "; ".join([where, *(f"note: {note}" for note in notes)])

    def resolve(self):
        return self.resolve_all()[0]

    def resolve_all(self):
        there, absent = Path("/dev/null"), Path("/dev/null/none")
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "pynvml", self.nvml or FakeNvml(*self.gpus))
            patch.setattr(devices, "CONTROL", there if self.control == "own" else absent)
            other = there if self.control == "other" else absent
            patch.setattr(devices, "OTHER_CONTROLS", (other,))
            patch.delenv(VISIBLE, raising=False)
            if self.visible is not None:
                patch.setenv(VISIBLE, self.visible)
            patch.setattr(devices, "check_gpu", self.check or FakeCuda(*self.gpus))
            return resolve_devices(self.device, self.build)


def process(code):
    """A process that tries the GPU and does what some code does instead; half a second it gets."""
    argv = [sys.executable, "-S", "-c", code]
    return lambda _value, _index: check_by(argv, os.environ, patience_s=0.5)


def failing(call, value=UNKNOWN):
    return FakeNvml(*ALL, errors={call: value})


_NO_LIBRARY = failing("nvmlInit", NO_LIBRARY)
FAULTS = (
    GpuFault("the driver is too old for torch's CUDA", FakeNvml(FIRST, driver="550.54"),
             FakeCuda(problem=OLD)),
    GpuFault("the GPU is too old for torch", gpus=(V100,)),
    GpuFault("one of two GPUs is too old for torch", gpus=(V100, FIRST)),
    GpuFault("the first of two is too old, with `--device cuda`", gpus=(V100, FIRST),
             device="cuda"),
    GpuFault("one of two is too old, and NVML does not answer", failing("nvmlInit"),
             gpus=(V100, FIRST)),
    GpuFault("another process has the GPU to itself", FakeNvml(FIRST), FakeCuda(TAKEN)),
    GpuFault("another process has one of two to itself", check=FakeCuda(TAKEN, SECOND)),
    GpuFault("another process has the first of two, with `--device cuda`",
             check=FakeCuda(TAKEN, SECOND), device="cuda"),
    GpuFault("the GPU is full", FakeNvml(FIRST),
             FakeCuda(FIRST, failures={"off": "CUDA error: out of memory"})),
    GpuFault("all GPUs are broken", check=FakeCuda(*ALL, failures={"off": "CUDA unknown error"})),
    GpuFault("the GPU computes no bf16 at all", FakeNvml(T4),
             FakeCuda(T4, failures={"bf16": "not supported"}), amp="bf16"),
    GpuFault("the GPU emulates bf16", gpus=(T4,), amp="bf16"),
    GpuFault("torch is built without CUDA", build=None),
    GpuFault("torch is built without CUDA, with `--device cuda`", build=None, device="cuda"),
    GpuFault("there is no driver", _NO_LIBRARY, FakeCuda()),
    GpuFault("there is no driver, with `--device cuda`", _NO_LIBRARY, FakeCuda(), device="cuda"),
    GpuFault("the driver is not loaded", failing("nvmlInit", NOT_LOADED), FakeCuda()),
    GpuFault("driver and library are of different versions", failing("nvmlInit", MISMATCH),
             FakeCuda(problem="Error 803: unsupported display driver")),
    GpuFault("the driver has no GPU", FakeNvml(), FakeCuda()),
    GpuFault("`--device cuda:2` with two GPUs", device="cuda:2"),
    GpuFault("the GPU is an instance in MIG mode", FakeNvml(FIRST), FakeCuda(INSTANCE)),
    GpuFault("a GPU in MIG mode has no instances", FakeNvml(FIRST), FakeCuda()),
    GpuFault("NVML's library is missing, and torch sees a GPU", _NO_LIBRARY, control="own"),
    GpuFault("NVML's library is missing, and torch sees none", _NO_LIBRARY, FakeCuda(problem=BUSY),
             control="own"),
    GpuFault("NVML shows no GPU, and torch sees one", FakeNvml()),
    GpuFault("NVML is missing on WSL or a Jetson, and torch sees a GPU", _NO_LIBRARY,
             control="other"),
    GpuFault("NVML is missing on WSL or a Jetson, and torch sees none", _NO_LIBRARY, FakeCuda(),
             control="other"),
    GpuFault("NVML shows a GPU that CUDA does not know", FakeNvml(FIRST), FakeCuda(SECOND)),
    GpuFault("NVML shows a GPU, and torch sees none", FakeNvml(FIRST), FakeCuda()),
    *(GpuFault(f"NVML fails in `nvml{call}`", failing(f"nvml{call}"))
      for call in ("Init", "SystemGetDriverVersion", "DeviceGetCount", "Shutdown")),
    *(GpuFault(f"`{VISIBLE}={value}`", visible=value) for value in (
        "", "-1", "-1,0", "NoDevFiles", "0", "1", "1,0", " 1 , 0 ", "1st,0", "+1", "0,7", "0,-1",
        "0,", "0,GPU-89aa", "7", "0,0", "-2", "all", ",0", SECOND.uuid, "GPU-89aa",
        f"GPU-89aa,{FIRST.uuid}", "GPU-89aa,0", "GPU-89", "GPU-ffff", "gpu-89aa",
        "GPU-89aa,GPU-89aa0000",
    )),
    GpuFault("the process that tries the GPU hangs (0.5 s are allowed here, else 120)",
             check=process("import signal; signal.pause()")),
    GpuFault("that process is killed", check=process("import os; os.kill(os.getpid(), 11)")),
    GpuFault("that process ends with an error", check=process(
        "raise ImportError('libcudart.so.13: cannot open shared object file')")),
    GpuFault("that process prints something else", check=process("print('[]')")),
)  # fmt: skip

_WORKER = f"""
import sys
from pathlib import Path
import torch
def fail(_):
    raise RuntimeError({BUSY!r} + "\\nCompile with TORCH_USE_CUDA_DSA")
torch.cuda.set_device = fail
from bench.worker.__main__ import main
sys.exit(main(Path(sys.argv[1])))
"""

FAILED = """
import sys
from pathlib import Path
from bench.worker.__main__ import write_result
write_result(
    Path(sys.argv[1]), "crashed", "the device failed: CUDA error: an illegal memory access", {},
    device_failed=True,
)
sys.exit(1)
"""
"""A worker whose process alone can use the GPU no more."""
WORKS = FakeCuda(FIRST)(None, 0)
BROKEN = FakeCuda(FIRST, failures={"off": BUSY})(None, 0)


def outcomes():
    """The faults and what each gives, as cells of Markdown."""
    freed = "`set_device` raises, and another process can use the GPU"
    ends = (("`set_device` raises in a worker", BROKEN, _WORKER), (freed, WORKS, FAILED))
    every = [(fault.name, fault.outcome()) for fault in FAULTS]
    every += [(name, _ended(then, worker)) for name, then, worker in ends]
    return [(name, text.replace("|", "\\|")) for name, text in every]


def _ended(then, worker):
    """How a grid of three cells ends if workers can't use the GPU; trying it again gives `then`."""
    made, err = setup("fake"), StringIO()
    conditions = replace(made.conditions, device="cuda:1")
    gpu = GpuInfo("NVIDIA A100", "550.54", (8, 0), FIRST.uuid)
    target = Target(conditions, "bf16", FIRST.uuid, Device("cuda:1", gpu))
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        redirect_stderr(err),
        redirect_stdout(StringIO()),
    ):
        patch.setitem(sys.modules, "bench.report.render", SimpleNamespace(render=stub_report))
        patch.setattr(gpu_trial, "check_gpu", lambda _value, _index: then)
        patch.setenv("PYTHONPATH", str(ROOT))
        csv = Path(folder, "runs.csv")
        session = made.session(csv, [target], (sys.executable, "-c", worker))
        code = session.run([plan(made.cells, [], conditions.columns())])
        rows = read_rows(csv)
    statuses = ", ".join(sorted({row.status for row in rows}))
    counted = f"after {len(rows)} of 3 cells, all {statuses}, exit code {code}"
    stops = (line for line in err.getvalue().splitlines() if line.startswith("stopped: "))
    return ": ".join([counted, *stops])
