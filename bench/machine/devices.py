"""The devices that a command's cells run on, chosen by --device and checked before they run.

NVML only says whether there is a driver. Torch lists the GPUs that CUDA_VISIBLE_DEVICES shows and
checks one, in a process of its own (`bench.machine.gpu_trial`).
"""

import os
import re
import shutil
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from bench.common.errors import InputError, cause_of
from bench.common.grouping import grouped
from bench.common.messages import shown
from bench.machine.cores import nvml
from bench.machine.environment import VISIBLE
from bench.machine.gpu_trial import ON_CPU, Answer, GpuInfo, check_gpu
from minbert.errors import OUT_OF_MEMORY
from minbert.training import COMPILES_FROM

CONTROL: Final = Path("/dev/nvidiactl")  # the file through which programs access the driver
OTHER_CONTROLS: Final = (Path("/dev/dxg"), Path("/dev/nvmap"))
"""The same for WSL, with GPUs of any maker, and for a Jetson, which may lack NVML."""

ALL: Final = "all"  # the name of all GPUs
_ONE: Final = "auto, cpu, cuda or cuda:i"
_ABSENT: Final = (9, 12)  # NVML's errors if there is no driver: not loaded, library not found
_AMPERE: Final = (8, 0)  # the compute capability from which GPUs have bf16 and TF32
_TRITON_FROM: Final = (7, 0)  # the compute capability from which on triton makes code
_BUSY: Final = ("busy or unavailable", "devices unavailable", *OUT_OF_MEMORY)
"""Parts of the errors of a GPU that other processes use."""


@dataclass(frozen=True)
class Device:
    """The device that cells run on: `cpu`, or `cuda:i` and its GPU. `failures` has the values of
    `amp` that the GPU can't compute with, and why. `notes` are for the user."""

    name: str = "cpu"
    gpu: GpuInfo | None = None
    failures: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def has_bf16(self) -> bool:
        """Whether the device computes in bf16 without emulating it."""
        return self.gpu is None or self.gpu.capability >= _AMPERE

    @property
    def has_tf32(self) -> bool:
        return self.gpu is not None and self.gpu.capability >= _AMPERE


@dataclass(frozen=True)
class Driver:
    """The driver as NVML describes it; `gpus` is None where it does not say how many there are."""

    version: str = ""
    gpus: int | None = None
    problem: str = ""


def read_driver() -> Driver | None:
    """Query NVML; None without a driver. Any error becomes the problem of the result."""
    version = ""
    try:
        with nvml() as library:
            version = str(library.nvmlSystemGetDriverVersion())
            return Driver(version, int(library.nvmlDeviceGetCount()))
    except Exception as error:  # noqa: BLE001 (an NVML that is broken can raise anything)
        absent = isinstance(error, ImportError) or getattr(error, "value", None) in _ABSENT
        if absent and not CONTROL.exists():
            return Driver(gpus=0) if any(path.exists() for path in OTHER_CONTROLS) else None
        return Driver(version, problem=f"NVML: {cause_of(error)}")


def resolve_device(requested: str, cuda: str | None) -> Device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:i` stands for.

    `auto` is the first GPU that can be used. It is the CPU if there is no GPU, if torch is built
    without CUDA, or if CUDA_VISIBLE_DEVICES hides all GPUs; but not if GPUs fail. InputError for an
    unknown name, a GPU that does not exist, or one that can't be used. `cuda` is the CUDA version
    that torch was built with, if any.
    """
    if requested == ALL or "," in requested:
        raise InputError(f"--device: {requested!r} is not {_ONE}: here it takes one device")
    return resolve_devices(requested, cuda)[0]


def resolve_devices(requested: str, cuda: str | None) -> tuple[Device, ...]:
    """The devices that `all` or a list such as `cuda:0,cuda:2` stands for, which are GPUs of one
    kind; for another name, the one of `resolve_device`. `all` are the GPUs that can be used, and
    those that are busy or full now. InputError as `resolve_device`, and for GPUs of several
    kinds."""
    if requested == "cpu":
        return (Device(),)
    is_auto, is_all = requested == "auto", requested == ALL
    names = [] if is_auto or is_all else requested.split(",")
    numbers = []
    for name in names:
        kind, _, index = name.partition(":")
        if kind != "cuda" or not (index or "0").isdecimal():
            raise InputError(
                f"--device: {requested!r} is not {_ONE}, all or a list such as cuda:0,cuda:1"
            )
        numbers.append(int(index or 0))
    if len(set(numbers)) < len(numbers):
        raise InputError(f"--device: {requested} names a GPU twice")
    variable = os.environ.get(VISIBLE)
    setting = "" if variable is None else f"{VISIBLE}={shown(variable)}"
    driver, hidden = read_driver(), variable is not None and _hides_all(variable)
    if is_auto and (cuda is None or hidden or driver is None):
        unused = driver is not None and driver.gpus and not hidden
        note = (
            "the GPU is not used: the installed torch was built without CUDA; install one built "
            "with it to run on the GPU"
        )
        return (Device(notes=(note,) if unused else ()),)
    if cuda is None:
        raise _not_there(requested, "the installed torch was built without CUDA")
    if hidden:
        raise _not_there(requested, f"{setting} hides all GPUs")

    driver, number = driver or Driver(), numbers[0] if numbers else 0
    answer = check_gpu(variable, number)
    count = len(answer.gpus)
    if not count:
        why = answer.problem.rstrip(".") or "torch sees none"
        if is_auto and driver.gpus == 0:
            return (Device(notes=(f"no GPU is used: {why}",)),)
        details = "".join(f" ({text})" for text in (setting, driver.problem) if text)
        raise InputError(f"no GPU can be used: {why}{details}; mend that, or {_remedy(requested)}")
    if missing := [i for i in numbers if i >= count]:
        gpus = "1 GPU" if count == 1 else f"{count} GPUs"
        why = f"torch sees {gpus}" + (f" ({setting})" if setting else "")
        raise _not_there(f"cuda:{missing[0]}" if len(numbers) > 1 else requested, why)

    def candidate(i: int) -> tuple[Device, str]:
        own = answer if i == number else check_gpu(variable, i)
        uuid = _name_for_workers(answer.gpus[i], i, variable)
        gpu = replace(answer.gpus[i], driver=driver.version or "unknown", uuid=uuid)
        return Device(f"cuda:{i}", gpu, own.failures), _problem(gpu, own)

    if len(numbers) == 1 or is_auto:
        return (_first_usable(map(candidate, numbers or range(count))),)
    with ThreadPoolExecutor() as pool:  # since each check is a process that loads torch
        checked = list(pool.map(candidate, numbers or range(count)))
    return _of_one_kind(requested, _usable(checked, is_all))


def _hides_all(variable: str) -> bool:
    """Whether a value of CUDA_VISIBLE_DEVICES is one of those that hide all GPUs on purpose."""
    return not variable.strip() or variable.partition(",")[0].strip() in ("-1", "NoDevFiles")


def _name_for_workers(gpu: GpuInfo, number: int, variable: str | None) -> str:
    """The value of CUDA_VISIBLE_DEVICES that shows a worker this GPU alone: its UUID. Of an
    instance in MIG mode torch reports none by which it is found, so the user's entry is kept.
    Without one, NVML names the instances, and the first of the same kind is taken: a worker could
    not ask NVML about an index."""
    if "MIG" not in gpu.name:
        return gpu.uuid
    if variable is not None:
        return variable.split(",")[number].strip()
    alike = (n for n in _instances() if [g.kind for g in check_gpu(n, 0).gpus] == [gpu.kind])
    return next(alike, "0") if number == 0 else str(number)


def _instances() -> Iterator[str]:
    """The UUIDs of all instances in MIG mode, by NVML; none where it does not answer."""
    with suppress(Exception), nvml() as library:  # as in `read_driver`
        for index in range(library.nvmlDeviceGetCount()):
            gpu = library.nvmlDeviceGetHandleByIndex(index)
            for place in range(library.nvmlDeviceGetMaxMigDeviceCount(gpu)):
                with suppress(library.NVMLError):  # no instance is in this place
                    instance = library.nvmlDeviceGetMigDeviceHandleByIndex(gpu, place)
                    yield str(library.nvmlDeviceGetUUID(instance))


def _problem(gpu: GpuInfo, answer: Answer) -> str:
    """Why a GPU can't compute in fp32, from the result of checking it; empty if it can."""
    failure, built = answer.failures.get("off"), answer.capabilities
    if failure is None:
        return ""
    if not built or gpu.capability >= min(built):
        return f"{gpu.name} can't be used: {failure}"
    own, *others = (".".join(map(str, version)) for version in (gpu.capability, *built))
    return (
        f"{gpu.name} has compute capability {own}, and the installed torch was built for "
        f"{', '.join(others)}"
    )


def _first_usable(candidates: Iterator[tuple[Device, str]]) -> Device:
    """The first GPU without a problem, with a note on those before it. A GPU that is busy or full
    is accepted: another grid may use it, and cells wait for it."""
    failed: list[tuple[Device, str]] = []
    for device, problem in candidates:
        if not problem:
            notes = tuple(f"{other.name} is not used: {why}" for other, why in failed)
            return replace(device, notes=notes)
        failed.append((device, problem))
    for device, problem in failed:
        if any(sign in problem for sign in _BUSY):
            note = f"{device.name}: {problem}; it is tried again as cells run"
            return replace(device, failures={}, notes=(note,))  # what fails in it is not known
    raise InputError(f"{failed[0][1]}; mend that, name another GPU, or {ON_CPU}")


def _usable(checked: Iterable[tuple[Device, str]], is_all: bool) -> list[Device]:
    """The GPUs without a problem, and those that are busy or full, with notes on the others."""
    usable, notes, problem = [], [], ""
    for device, problem_here in checked:
        if not problem_here:
            usable.append(device)
        elif any(sign in problem_here for sign in _BUSY):
            notes.append(f"{device.name}: {problem_here}; it is tried again as cells run")
            usable.append(replace(device, failures={}))
        else:
            notes.append(f"{device.name} is not used: {problem_here}")
            problem = problem or f"{device.name}: {problem_here}"
    if problem and not (is_all and usable):
        raise InputError(f"{problem}; mend that, name other GPUs, or {ON_CPU}")
    return [replace(usable[0], notes=tuple(notes)), *usable[1:]]


def _of_one_kind(requested: str, devices: list[Device]) -> tuple[Device, ...]:
    by_kind = grouped(devices, lambda device: device.gpu.kind if device.gpu else "")
    if len(by_kind) > 1:
        kinds = "; ".join(
            f"{','.join(device.name for device in alike)} ({kind})"
            for kind, alike in by_kind.items()
        )
        raise InputError(
            f"--device {requested}: times of different GPUs are not comparable; name those of one "
            f"kind: {kinds}"
        )
    return tuple(devices)


def _remedy(requested: str) -> str:
    return "--device cpu --jobs N runs N cells at once on the CPU" if requested == ALL else ON_CPU


def _not_there(requested: str, why: str) -> InputError:
    return InputError(f"--device: {requested} is not there: {why}; {_remedy(requested)}")


def why_no_compiling(device: Device, torch_version: str) -> str:
    """The reason why `compile` auto is off on a device, or empty: it does not pay, or what torch on
    a GPU needs is missing, triton, which calls a C compiler for code that includes Python.h."""
    if device.gpu is None:
        return "a CPU gains nothing"
    version = tuple(map(int, re.findall(r"\d+", torch_version)[:2]))
    if version < COMPILES_FROM:
        return f"torch {torch_version} is too old"
    if device.gpu.capability < _TRITON_FROM:
        return f"{device.gpu.name} is too old for triton"
    if find_spec("triton") is None:
        return "triton is missing"
    if not any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang")))):
        return "a C compiler is missing"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python.h is missing"
    return ""
