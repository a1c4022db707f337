"""GPU faults, and what each gives: tests hold them, and docs/reliability.md lists them."""

import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

from bench.common.errors import InputError
from bench.launch.checks import amp_notes, check_amp
from bench.machine import devices, gpu_trial
from bench.machine.conditions import Target
from bench.machine.devices import Device, resolve_devices
from bench.machine.environment import VISIBLE
from bench.machine.gpu_trial import Answer, Check, GpuInfo, check_by
from bench.plan.gridfile import Axes, Grid
from bench.plan.planning import plan
from bench.results.store import read_rows
from tests.bench.synthetic_rows import cell
from tests.experiments.faults.fake_driver import BUILT, FakeCuda, FakeGpu, FakeNvml
from tests.experiments.faults.parent import stub_report
from tests.experiments.faults.setups import ROOT, setup

FIRST: Final = FakeGpu("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6")
SECOND: Final = FakeGpu("GPU-89aa0000-1111-2222-3333-444444444444")
V100: Final = FakeGpu(
    "GPU-70000000-0000", "Tesla V100", (7, 0), failures={"off": "CUDA error: no kernel image"}
)
T4: Final = FakeGpu("GPU-75000000-0000", "Tesla T4", (7, 5))
INSTANCE: Final = FakeGpu("GPU-c0de0000-5555", "NVIDIA A100 MIG 3g.40gb")
ALL: Final = (FIRST, SECOND)

NO_IMAGE: Final = "CUDA error: no kernel image is available for execution on the device"
BUSY: Final = "CUDA error: CUDA-capable device(s) is/are busy or unavailable"
OLD: Final = "The NVIDIA driver on your system is too old (found version 12040)."
TAKEN: Final = replace(FIRST, failures={"off": BUSY})
NOT_LOADED, NO_LIBRARY, MISMATCH, UNKNOWN = 9, 12, 18, 999

CALLS: Final = (
    "nvmlInit",
    "nvmlSystemGetDriverVersion",
    "nvmlDeviceGetCount",
    "nvmlShutdown",
)


@dataclass(frozen=True)
class GpuFault:
    """A machine with something wrong: its driver, its GPUs as torch sees them, what is asked for.

    `gives` is part of what comes of it.
    """

    name: str
    gives: str
    nvml: FakeNvml = field(default_factory=lambda: FakeNvml(*ALL))
    check: Check = field(default_factory=lambda: FakeCuda(ALL))
    visible: str | None = None
    device: str = "auto"
    build: str | None = "13.0"
    has_control_file: bool = False
    has_other_file: bool = False
    amp: str = "off"

    def outcome(self) -> str:
        """What a command says of it before anything runs."""
        try:
            device = self.resolve()
            check_amp([_cell(self.amp)], Grid(name="mine", cells=[Axes(mode=["full"])]), device)
        except InputError as error:
            return f"exit code 2: {error}"
        notes = [*device.notes, *amp_notes([_cell(self.amp)], device)]
        where = f"runs on {device.name}"
        where += "" if device.gpu is None else f", {device.gpu.name} ({device.gpu.uuid})"
        return "; ".join([where, *(f"note: {note}" for note in notes)])

    def resolve(self) -> Device:
        """The device that is resolved on that machine.

        Raises:
            InputError: as `resolve_devices`.
        """
        return self.resolve_all()[0]

    def resolve_all(self) -> tuple[Device, ...]:
        """The devices that are resolved on that machine.

        Raises:
            InputError: as `resolve_devices`.
        """
        control = Path("/dev/null" if self.has_control_file else "/dev/null/none")
        other = Path("/dev/null" if self.has_other_file else "/dev/null/none")
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "pynvml", self.nvml)
            patch.setattr(devices, "CONTROL", control)
            patch.setattr(devices, "OTHER_CONTROLS", (other,))
            patch.delenv(VISIBLE, raising=False)
            if self.visible is not None:
                patch.setenv(VISIBLE, self.visible)
            return resolve_devices(self.device, self.build, self.check)


def _cell(amp: str) -> Any:
    return cell("full", None, None, amp)


def cuda(*gpus: FakeGpu, **answer: Any) -> FakeCuda:
    """Torch with some GPUs, or with failures."""
    return FakeCuda(gpus, Answer(capabilities=BUILT, **answer))


def process(code: str) -> Check:
    """A process that tries the GPU and does what some code does instead; half a second it gets."""
    argv = [sys.executable, "-S", "-c", code]
    return lambda _value, _index: check_by(argv, os.environ, patience_s=0.5)


def failing(call: str, value: int = UNKNOWN, *gpus: FakeGpu) -> FakeNvml:
    return FakeNvml(*(gpus or ALL), errors={call: value})


ON_FIRST: Final = f"runs on cuda:0, NVIDIA A100 ({FIRST.uuid})"
ON_SECOND: Final = f"runs on cuda:0, NVIDIA A100 ({SECOND.uuid})"
ON_CPU: Final = "runs on cpu"
ENDS: Final = "--device cpu runs on the CPU"

DEVICES: Final = (
    GpuFault("the driver is too old for torch's CUDA", f"used: {OLD.rstrip('.')}",
             FakeNvml(FIRST, driver="550.54"), cuda(problem=OLD)),
    GpuFault("the GPU is too old for torch", "has compute capability 7.0, and the installed torch",
             FakeNvml(V100), cuda(V100)),
    GpuFault("the same, and another is not", "runs on cuda:1, NVIDIA A100 (GPU-8932f937-",
             FakeNvml(V100, FIRST), cuda(V100, FIRST)),
    GpuFault("the same, with `--device cuda`", "8.0, 9.0, 12.0; mend that, name another GPU, or",
             FakeNvml(V100, FIRST), cuda(V100, FIRST), device="cuda"),
    GpuFault("the same, and NVML does not answer", "runs on cuda:1, NVIDIA A100 (GPU-8932f937-",
             failing("nvmlInit"), cuda(V100, FIRST)),
    GpuFault("another process has the GPU to itself", f"A100 can't be used: {BUSY}; it is tried",
             FakeNvml(FIRST), cuda(TAKEN)),
    GpuFault("the same, and another is free", f"runs on cuda:1, NVIDIA A100 ({SECOND.uuid})",
             FakeNvml(FIRST, SECOND), cuda(TAKEN, SECOND)),
    GpuFault("the same, with `--device cuda`", "cuda:0: NVIDIA A100 can't be used: CUDA error",
             FakeNvml(FIRST, SECOND), cuda(TAKEN, SECOND), device="cuda"),
    GpuFault("the GPU is full", "note: cuda:0: NVIDIA A100 can't be used: CUDA error: out of",
             FakeNvml(FIRST), cuda(FIRST, failures={"off": "CUDA error: out of memory"})),
    GpuFault("all GPUs are broken", "A100 can't be used: CUDA unknown error; mend that",
             FakeNvml(FIRST, SECOND),
             cuda(FIRST, SECOND, failures={"off": "CUDA unknown error"})),
    GpuFault("the GPU computes no bf16 at all", "can't compute in amp bf16",
             FakeNvml(T4), cuda(T4, failures={"bf16": "not supported"}), amp="bf16"),
    GpuFault("the GPU emulates bf16", "note: amp bf16: Tesla T4 has no bf16 units",
             FakeNvml(T4), cuda(T4), amp="bf16"),
    GpuFault("torch is built without CUDA", f"{ON_CPU}; note: the GPU is not used",
             build=None),
    GpuFault("the same, with `--device cuda`", "the installed torch was built without CUDA",
             build=None, device="cuda"),
    GpuFault("there is no driver", ON_CPU, failing("nvmlInit", NO_LIBRARY), cuda()),
    GpuFault("the same, with `--device cuda`", "no GPU can be used: No CUDA GPUs are available",
             failing("nvmlInit", NO_LIBRARY), cuda(), device="cuda"),
    GpuFault("the driver is not loaded", ON_CPU, failing("nvmlInit", NOT_LOADED), cuda()),
    GpuFault("driver and library are of different versions", "no GPU can be used: Error 803",
             failing("nvmlInit", MISMATCH), cuda(problem="Error 803: unsupported display driver")),
    GpuFault("the driver has no GPU", ON_CPU, FakeNvml(), cuda()),
    GpuFault("`--device cuda:2` with two GPUs", "cuda:2 is not there: torch sees 2 GPUs",
             device="cuda:2"),
    GpuFault("the GPU is an instance in MIG mode", "runs on cuda:0, NVIDIA A100 MIG 3g.40gb (0)",
             FakeNvml(FIRST), cuda(INSTANCE)),
    GpuFault("a GPU in MIG mode has no instances", "no GPU can be used: No CUDA GPUs are available",
             FakeNvml(FIRST), cuda()),
)  # fmt: skip

NVML: Final = (
    GpuFault("NVML's library is missing, and torch sees a GPU", ON_FIRST,
             failing("nvmlInit", NO_LIBRARY), has_control_file=True),
    GpuFault("the same, and torch sees none", f"no GPU can be used: {BUSY} (NVML: error 12)",
             failing("nvmlInit", NO_LIBRARY), cuda(problem=BUSY), has_control_file=True),
    GpuFault("NVML shows no GPU, and torch sees one", ON_FIRST, FakeNvml()),
    GpuFault("NVML is missing on WSL or a Jetson, and torch sees a GPU", ON_FIRST,
             failing("nvmlInit", NO_LIBRARY), has_other_file=True),
    GpuFault("the same, and torch sees none", f"{ON_CPU}; note: no GPU is used: No CUDA GPUs",
             failing("nvmlInit", NO_LIBRARY), cuda(), has_other_file=True),
    GpuFault("NVML shows a GPU that CUDA does not know", ON_SECOND,
             FakeNvml(FIRST), cuda(SECOND)),
    GpuFault("the same, and torch sees none", "no GPU can be used: No CUDA GPUs are available",
             FakeNvml(FIRST), cuda()),
    *(GpuFault(f"NVML fails in `{call}`", ON_FIRST, failing(call)) for call in CALLS),
)  # fmt: skip

NONE: Final = "no GPU can be used: No CUDA GPUs are available (CUDA_VISIBLE_DEVICES="
VALUES: Final[Mapping[str, str]] = {
    "": ON_CPU, "-1": ON_CPU, "-1,0": ON_CPU, "NoDevFiles": ON_CPU,
    "0": ON_FIRST, "1": ON_SECOND, "1,0": ON_SECOND, " 1 , 0 ": ON_SECOND, "1st,0": ON_SECOND,
    "+1": ON_SECOND, "0,7": ON_FIRST, "0,-1": ON_FIRST, "0,": ON_FIRST, "0,GPU-89aa": ON_FIRST,
    "7": NONE, "0,0": NONE, "-2": NONE, "all": NONE, ",0": NONE,
    SECOND.uuid: ON_SECOND, "GPU-89aa": ON_SECOND, f"GPU-89aa,{FIRST.uuid}": ON_SECOND,
    "GPU-89aa,0": ON_SECOND, "GPU-89": NONE, "GPU-ffff": NONE, "gpu-89aa": NONE,
    "GPU-89aa,GPU-89aa0000": NONE,
}  # fmt: skip

VISIBLE_DEVICES: Final = tuple(
    GpuFault(f"`{VISIBLE}={value}`", gives, visible=value) for value, gives in VALUES.items()
)

PROCESS: Final = (
    GpuFault("the process that tries the GPU hangs (0.5 s are allowed here, else 120)",
             "the GPU did not answer in 0.5 s", check=process("import signal; signal.pause()")),
    GpuFault("it is killed", "torch ended while it tried the GPU: signal 11",
             check=process("import os; os.kill(os.getpid(), 11)")),
    GpuFault("it ends with an error", "torch ended while it tried the GPU: ImportError: libcuda",
             check=process("raise ImportError('libcudart.so.13: cannot open shared object file')")),
    GpuFault("it prints something else", "torch ended while it tried the GPU: exit code 0",
             check=process("print('[]')")),
)  # fmt: skip

FAULTS: Final = (*DEVICES, *NVML, *VISIBLE_DEVICES, *PROCESS)

_WORKER: Final = f"""
import sys
from pathlib import Path
import torch
def fail(_):
    raise RuntimeError({BUSY!r} + "\\nCompile with TORCH_USE_CUDA_DSA")
torch.cuda.set_device = fail
from bench.worker.__main__ import main
sys.exit(main(Path(sys.argv[1])))
"""

FAILED: Final = """
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
WORKS: Final = cuda(FIRST)(None, 0)
BROKEN: Final = cuda(FIRST, failures={"off": BUSY})(None, 0)


@dataclass(frozen=True)
class Ended:
    """How a grid of three cells ended: exit code, lines on stderr, statuses and messages."""

    code: int
    lines: tuple[str, ...]
    rows: tuple[tuple[str, str], ...]


def grid_on_broken_device(folder: Path, then: Answer, worker: str = _WORKER) -> Ended:
    """Run a grid in a folder whose workers can't get hold of the GPU.

    Args:
        then: what trying the GPU again gives.
    """
    made = setup("fake")
    conditions = replace(made.conditions, device="cuda:1")
    gpu = GpuInfo("NVIDIA A100", "550.54", (8, 0), FIRST.uuid)
    target = Target(conditions, "bf16", FIRST.uuid, Device("cuda:1", gpu))
    csv, err = folder / "runs.csv", StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stderr(err),
        redirect_stdout(StringIO()),
    ):
        patch.setitem(sys.modules, "bench.report.render", SimpleNamespace(render=stub_report))
        patch.setattr(gpu_trial, "check_gpu", lambda _value, _index: then)
        patch.setenv("PYTHONPATH", str(ROOT))
        session = made.session(csv, [target], (sys.executable, "-c", worker))
        code = session.run([plan(made.cells, [], conditions.columns())])
        rows = tuple((str(row["status"]), str(row["message"])) for row in read_rows(csv))
    return Ended(code, tuple(err.getvalue().splitlines()), rows)


def table() -> str:
    """The faults and what each gives, as rows of Markdown."""
    rows = [f"| {fault.name} | {_escaped(fault.outcome())} |" for fault in FAULTS]
    rows += [f"| `set_device` raises in a worker | {_escaped(_ended(BROKEN))} |"]
    rows += [f"| the same, and another process can use it | {_escaped(_ended(WORKS, FAILED))} |"]
    return "\n".join(rows)


def _ended(then: Answer, worker: str = _WORKER) -> str:
    with tempfile.TemporaryDirectory() as folder:
        ended = grid_on_broken_device(Path(folder), then, worker)
    statuses = ", ".join(sorted({status for status, _ in ended.rows}))
    counted = f"after {len(ended.rows)} of 3 cells, all {statuses}, exit code {ended.code}"
    return ": ".join([counted, *(line for line in ended.lines if line.startswith("stopped: "))])


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
