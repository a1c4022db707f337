"""The conditions of a run: machine, device and software, found without importing torch."""

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import psutil

from bench.common.errors import InputError
from bench.common.files import text_or_empty
from bench.common.messages import shown
from bench.machine.cores import Threads, equal_shares, threads_near, usable_cores
from bench.machine.devices import Device, resolve_device, resolve_devices, why_no_compiling
from bench.machine.environment import recorded
from bench.machine.memory import CGROUPS
from bench.machine.version import code_version
from bench.plan.cell import Columns, digest
from bench.plan.rows import ConditionColumns

MEASUREMENT_VERSION: Final = 6
"""Raised by hand when measuring or numerics change, so that old rows are not compared with new."""

WORKERS: Final = "MINBERT_BENCH_WORKERS"
"""Environment: the number of workers that measure at once on this machine, where other processes
start the others, on cores of their own."""

_BUILD: Final = re.compile(r"^(__version__|cuda)\b[^=]*= *['\"]([^'\"]+)['\"]", re.MULTILINE)
"""The versions in torch's file version.py, such as `cuda: Optional[str] = '13.0'`."""


@dataclass(frozen=True)
class Conditions(ConditionColumns):
    """Where a cell ran. `code_version` is not part of the identity."""

    @property
    def worker_device(self) -> str:
        """The device's name in a worker, which sees no other GPU."""
        return "cpu" if self.device == "cpu" else "cuda:0"

    @cached_property
    def conditions_id(self) -> str:
        """Digest of everything that makes times and memory comparable."""
        kind = self.device.partition(":")[0]
        values = asdict(self) | {"device": kind}
        del values["code_version"]
        # so that the ids of older rows stay
        values["tf32"] = "off" if kind == "cuda" else None
        for name in ("sharing", "executor"):
            if values[name] is None:
                del values[name]
        return digest(values, 8)

    def columns(self) -> Columns:
        return {**asdict(self), "conditions_id": self.conditions_id}

    def job_fields(self) -> dict[str, Any]:
        """The fields of the job of a cell that runs there."""
        names = ("conditions_id", "threads", "code_version")
        return {"device": self.worker_device, **{name: getattr(self, name) for name in names}}


def torch_build() -> tuple[str, str | None]:
    """The installed torch's version, and the CUDA version it was built with, if any. The version is
    `torch.__version__`, such as 2.9.0+cu130. The package's metadata has the part after the + or
    not, depending on the index, for the same build. InputError if torch is not installed."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise InputError("torch is not installed; install this project with pip, which brings it")
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    build = dict(_BUILD.findall(text))
    return build.get("__version__") or metadata.version("torch"), build.get("cuda")


def processor_name() -> str:
    for line in text_or_empty(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def usable_threads() -> int:
    """Physical cores that this process may use, by its affinity and its control group's quota, of
    which it gets a part as one of several workers."""
    return _threads(len(usable_cores()), workers_here())


def _threads(cores: int, workers: int) -> int:
    quota = cpu_quota()
    cores = min(cores, psutil.cpu_count(logical=False) or cores)
    return max(1, cores if quota is None else min(cores, quota // workers))


def workers_here() -> int:
    """The number of workers that measure at once on this machine; InputError if it is none."""
    text = os.environ.get(WORKERS) or "1"
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise InputError(f"{WORKERS}={shown(text)} is no number of workers")
    return int(text)


def cpu_quota(groups: Path = CGROUPS) -> int | None:
    """Whole cores that the control group's quota allows, by cgroup v2 or v1; None without one."""
    words = text_or_empty(groups / "cpu.max").split() or [
        text_or_empty(groups / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period")
    ]
    try:
        quota, period = map(int, words)
        return max(1, quota // period) if quota > 0 else None
    except (ValueError, ZeroDivisionError):
        return None


@dataclass(frozen=True)
class Target:
    """Where a cell runs: the conditions, the type that `amp = on` stands for, and the device.
    `device_name` identifies the device on this machine however devices are numbered: it is the UUID
    of a GPU. `cores` are the hardware threads that workers are bound to; empty: to none."""

    conditions: Conditions
    amp_on: str
    device_name: str
    device: Device = field(default_factory=Device)
    cores: Threads = frozenset()

    @property
    def gpu(self) -> str:
        """The UUID of the one GPU that workers see; empty: none."""
        return "" if self.device.gpu is None else self.device_name

    @property
    def no_compiling(self) -> str:
        """The reason why `compile` auto is off here; empty: it is on."""
        return why_no_compiling(self.device, self.conditions.torch_version)


def find_conditions(requested: str) -> Target:
    """The conditions of a run on a device, which is as of `resolve_device`."""
    return _targets([resolve_device(requested, torch_build()[1])])[0]


def find_slots(requested: str, jobs: int = 1) -> tuple[Target, ...]:
    """The conditions of a run on one or several devices, on each of which one cell runs at a time.
    They are equal but for the number of the GPU. Of several, each has cores of its own, near its
    GPU; on the CPU, `jobs` workers share it. InputError as `resolve_devices` and `torch_build`; for
    jobs on a GPU, and for more workers than cores."""
    devices = resolve_devices(requested, torch_build()[1])
    gpus = [device.gpu.uuid for device in devices if device.gpu]
    if gpus and jobs > 1:
        raise InputError(
            f"--jobs is for the CPU, and --device {requested} is a GPU: --device all uses every "
            f"GPU, --device cpu --jobs {jobs} the CPU"
        )
    devices = devices * jobs
    workers = len(devices)
    if workers == 1:
        return _targets(devices)
    cores, most = usable_cores(), usable_threads()
    if workers > most:
        flag = f"--device {requested}" if gpus else f"--jobs {jobs}"
        raise InputError(
            f"{flag}: {workers} workers need a core each, and {most} can be used; give at most "
            f"{most}"
        )
    shares = equal_shares(cores, [threads_near(gpu) for gpu in gpus] or [frozenset()] * jobs)
    return _targets(devices, shares)


def _targets(
    devices: Sequence[Device], shares: Sequence[Threads] = (frozenset(),)
) -> tuple[Target, ...]:
    """The conditions of a worker of this process on each of some devices of one kind, with an equal
    share of the hardware threads; one worker alone has no share."""
    (version, cuda), gpu, share = torch_build(), devices[0].gpu, shares[0]
    processor = processor_name()
    memory_gib = round(psutil.virtual_memory().total / 2**30)
    cores = usable_cores()
    own = [core for core in cores if core & share] if share else cores
    workers = len(devices) * workers_here()
    cpu = "cpu"
    if workers_here() > 1:  # the others are other processes, on other cores
        cpu = f"cpu {sorted(set().union(*cores))}"
    conditions = Conditions(
        device=devices[0].name,
        device_name=processor if gpu is None else f"{gpu.name}, driver {gpu.driver}",
        machine=f"{processor}, {os.cpu_count()} cores, {memory_gib} GiB",
        threads=_threads(len(own), workers),
        torch_version=version,
        cuda_version=None if gpu is None else cuda,
        environment=recorded(os.environ, on_gpu=gpu is not None),
        measurement_version=MEASUREMENT_VERSION,
        code_version=code_version(),
        sharing=f"{workers} workers" if workers > 1 else None,
    )
    amp_on = "bf16" if devices[0].has_bf16 else "fp16"
    return tuple(
        Target(replace(conditions, device=device.name), amp_on,
               device.gpu.uuid if device.gpu else cpu, device, own_share)
        for device, own_share in zip(devices, shares, strict=True)
    )  # fmt: skip
