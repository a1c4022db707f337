"""The device that a command's cells run on, chosen by --device and checked before they run.

NVML lists the GPUs. Torch checks one in a process of its own (`bench.machine.gpu_check`) that sees
only this GPU, as a worker will. Where NVML has no usable answer, that process finds the GPU.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from bench.common.errors import InputError
from bench.common.messages import shown
from bench.machine.environment import VISIBLE
from bench.machine.gpu_trial import ON_CPU, Answer, Check, run_check
from bench.machine.nvml import Driver, GpuInfo, hides_all, read_driver, visible

_BF16_CAPABILITY: Final = (8, 0)
_BUSY: Final = ("busy or unavailable", "devices unavailable", "out of memory")
"""Parts of the errors of a GPU that other processes use."""


@dataclass(frozen=True)
class Device:
    """The device that cells run on: `cpu`, or `cuda:i` and its GPU.

    `failures` has the values of `amp` that the GPU can't compute with, and why. `notes` are for the
    user.
    """

    name: str = "cpu"
    gpu: GpuInfo | None = None
    failures: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def has_bf16(self) -> bool:
        """Whether the device computes in bf16 without emulating it."""
        return self.gpu is None or self.gpu.capability >= _BF16_CAPABILITY


def resolve_device(requested: str, cuda: str | None, check: Check | None = None) -> Device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:i` stands for.

    `auto` is the first GPU that can be used. It is the CPU if there is no GPU, if torch is built
    without CUDA, or if CUDA_VISIBLE_DEVICES hides all GPUs; but not if GPUs fail.

    Args:
        cuda: the CUDA version that torch was built with, if any.
        check: replaces `run_check`, in tests.

    Raises:
        InputError: for an unknown name, a GPU that does not exist, or one that can't be used.
    """
    if requested == "cpu":
        return Device()
    kind, _, index = requested.partition(":")
    is_auto = requested == "auto"
    if not is_auto and (kind != "cuda" or not (index or "0").isdecimal()):
        raise InputError(f"--device: {requested!r} is not auto, cpu, cuda or cuda:i")
    variable = os.environ.get(VISIBLE)
    hidden, driver = hides_all(variable), read_driver()
    if is_auto and (cuda is None or hidden or not driver.is_there):
        unused = driver.devices if cuda is None and not hidden else []
        return Device(notes=tuple(_unused_note(gpu) for gpu in unused[:1]))
    if cuda is None:
        raise _not_there(requested, "the installed torch was built without CUDA")
    if hidden:
        raise _not_there(requested, f"{_given(variable)} hides all GPUs")
    search = _Search(requested, int(index or 0), variable, driver, cuda, check or run_check)
    return search.by_nvml() or search.by_cuda()


@dataclass(frozen=True)
class _Search:
    requested: str
    index: int
    variable: str | None
    driver: Driver
    cuda: str
    check: Check

    def by_nvml(self) -> Device | None:
        """The GPU as NVML lists it; None where NVML does not say enough, or CUDA disagrees.

        Raises:
            InputError: if it does not exist, or can't be used.
        """
        boards = self.driver.boards
        if not boards:
            return None
        gpus, problem = visible(self.variable, boards)
        unknown = {board.uuid for board in boards if not board.is_known}
        up_to_it = gpus[: self.index + 1]
        if unknown and (len(up_to_it) <= self.index or unknown & {gpu.uuid for gpu in up_to_it}):
            return None
        why = f"{_given(self.variable)}: {problem}" if problem else ""
        if not gpus:
            here = [f"{i} ({board.uuid})" for i, board in enumerate(boards)]
            raise InputError(f"{why}; the GPUs are {', '.join(here[:8])}; {ON_CPU}")
        if self.index >= len(gpus):
            raise _not_there(self.requested, _number_shown(len(gpus)) + (why and f" ({why})"))

        def tried(number: int) -> _Tried | None:
            answer = self.check(gpus[number].uuid, 0)
            return _Tried(number, gpus[number], answer) if len(answer.gpus) == 1 else None

        return self._first_usable(len(gpus), tried)

    def by_cuda(self) -> Device:
        """The GPU as torch finds it; the CPU if the driver works and has no GPU.

        Raises:
            InputError: if it does not exist, or can't be used.
        """
        answer = self.check(self.variable, self.index)
        if self.index < len(answer.gpus):

            def tried(number: int) -> _Tried:
                own = answer if number == self.index else self.check(self.variable, number)
                return self._as_worker_sees(_Tried(number, answer.gpus[number], own))

            device = self._first_usable(len(answer.gpus), tried)
            if device is not None:
                return device
        if answer.gpus:
            raise _not_there(self.requested, _number_shown(len(answer.gpus)))
        why = answer.problem.rstrip(".") or "torch sees none"
        works = self.driver.is_there and not self.driver.problem
        if works and not self.driver.boards and self.requested == "auto":
            return Device(notes=() if self.driver.version else (f"no GPU is used: {why}",))
        self._compare_driver()
        if self.variable is not None:
            why += f" ({_given(self.variable)})"
        if self.driver.problem:
            why += f" ({self.driver.problem})"
        raise InputError(f"no GPU can be used: {why}; mend that, or {ON_CPU}")

    def _as_worker_sees(self, tried: "_Tried") -> "_Tried":
        """A GPU that torch found, checked again by a name that shows workers this GPU alone."""
        entries = None if self.variable is None else self.variable.split(",")
        entry = str(tried.number) if entries is None else entries[tried.number].strip()
        gpu = replace(tried.gpu, driver=self.driver.version or "unknown")
        # torch may report an instance by the UUID of its GPU, or without the prefix MIG-
        names = [gpu.uuid, gpu.uuid.replace("GPU-", "MIG-", 1)]
        for name in [entry] if entry.startswith("MIG-") else names:
            answer = self.check(name, 0)
            if len(answer.gpus) == 1:
                return _Tried(tried.number, replace(gpu, uuid=name), answer)
        return _Tried(tried.number, replace(gpu, uuid=entry), tried.answer)

    def _first_usable(self, count: int, tried: Callable[[int], "_Tried | None"]) -> Device | None:
        """The GPU with the index, or with `auto` the first usable one; None if torch sees none.

        A GPU that is busy or full is accepted: another grid may use it, and cells wait for it.

        Raises:
            InputError: if no GPU can be used.
        """
        failed: list[_Tried] = []
        for number in range(count) if self.requested == "auto" else [self.index]:
            gpu = tried(number)
            if gpu is None:
                return None
            if not gpu.problem:
                return gpu.device(*(f"cuda:{no.number} is not used: {no.problem}" for no in failed))
            failed.append(gpu)
        for gpu in failed:
            if gpu.is_busy:
                return gpu.device(
                    f"cuda:{gpu.number}: {gpu.problem}; it is tried again as cells run"
                )
        self._compare_driver()
        others = [number for number in range(count) if self.requested != "auto"]
        able = [f"cuda:{gpu.number}" for gpu in map(tried, others) if gpu and not gpu.problem]
        remedy = "install one built for it" if failed[0].is_too_old else "mend that"
        remedy = f"take {' or '.join(able)}" if able else remedy
        raise InputError(f"{failed[0].problem}; {remedy}, or {ON_CPU}")

    def _compare_driver(self) -> None:
        """Refuse a driver that is older than torch's CUDA; minor versions are compatible.

        Raises:
            InputError: if it is older.
        """
        driver = self.driver
        if driver.cuda is not None and driver.cuda[0] < int(self.cuda.partition(".")[0]):
            raise InputError(
                f"the NVIDIA driver {driver.version} supports CUDA {_dotted(driver.cuda)}, and the "
                f"installed torch was built with CUDA {self.cuda}: update the driver, or install a "
                f"torch built with CUDA {driver.cuda[0]}; {ON_CPU}"
            )


@dataclass(frozen=True)
class _Tried:
    """A GPU, its number in `cuda:i`, and the result of checking it."""

    number: int
    gpu: GpuInfo
    answer: Answer

    @property
    def problem(self) -> str:
        """Why the GPU can't compute in fp32; empty if it can."""
        failure = self.answer.failures.get("off")
        if failure is None:
            return ""
        if self.is_too_old:
            return (
                f"{self.gpu.name} has compute capability {_dotted(self.gpu.capability)}, and the "
                f"installed torch was built for {', '.join(map(_dotted, self.answer.capabilities))}"
            )
        return f"{self.gpu.name} can't be used: {failure}"

    @property
    def is_too_old(self) -> bool:
        """Whether torch was built only for newer GPUs."""
        built = self.answer.capabilities
        return bool(built) and self.gpu.capability < min(built)

    @property
    def is_busy(self) -> bool:
        """Whether the problem is that another process uses the GPU."""
        return any(sign in self.problem for sign in _BUSY)

    def device(self, *notes: str) -> Device:
        """The GPU as a device. Of a busy one it is not known what it can't compute."""
        failures = {} if self.problem else self.answer.failures
        return Device(f"cuda:{self.number}", self.gpu, failures, notes)


def _not_there(requested: str, why: str) -> InputError:
    return InputError(f"--device: {requested} is not there: {why}; {ON_CPU}")


def _number_shown(count: int) -> str:
    return f"the driver shows {count} GPU{'s' if count > 1 else ''}"


def _given(variable: str | None) -> str:
    return f"{VISIBLE} is not set" if variable is None else f"{VISIBLE}={shown(variable)}"


def _unused_note(gpu: GpuInfo) -> str:
    return (
        f"{gpu.name} is not used: the installed torch was built without CUDA; install one built "
        "with it to run on the GPU"
    )


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
