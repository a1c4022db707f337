"""The device that a command's cells run on: chosen by --device, and tried before they do.

A GPU is found by NVML, and tried by torch in a process of its own (`bench.machine.gpu_check`) that
sees only that GPU, as a worker will. Where NVML has no usable answer, that
process finds the GPU.
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
"""In errors of a GPU that others use."""


@dataclass(frozen=True)
class Device:
    """Where cells run: `cpu`, or `cuda:i` and its GPU.

    `failures` says by value of `amp` why the GPU can't compute so; `notes` are for the user.
    """

    name: str = "cpu"
    gpu: GpuInfo | None = None
    failures: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def has_bf16(self) -> bool:
        """Whether it computes in bf16, and does not emulate it."""
        return self.gpu is None or self.gpu.capability >= _BF16_CAPABILITY


def resolve_device(wanted: str, cuda: str | None, check: Check | None = None) -> Device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:i` stands for.

    `auto` is the CPU where there is no GPU, where torch is built without CUDA, and where
    CUDA_VISIBLE_DEVICES hides all GPUs; not where there are some that can't be used. Of several it
    is the first that can.

    Args:
        cuda: the version that torch was built with, if any.
        check: stands for `run_check`.

    Raises:
        InputError: for another name, a GPU that is not there, or one that can't be used.
    """
    if wanted == "cpu":
        return Device()
    kind, _, index = wanted.partition(":")
    is_auto = wanted == "auto"
    if not is_auto and (kind != "cuda" or not (index or "0").isdecimal()):
        raise InputError(f"--device: {wanted!r} is not auto, cpu, cuda or cuda:i")
    variable = os.environ.get(VISIBLE)
    hidden, driver = hides_all(variable), read_driver()
    if is_auto and (cuda is None or hidden or not driver.is_there):
        unused = driver.devices if cuda is None and not hidden else []
        return Device(notes=tuple(_unused_note(gpu) for gpu in unused[:1]))
    if cuda is None:
        raise _not_there(wanted, "the installed torch was built without CUDA")
    if hidden:
        raise _not_there(wanted, f"{_given(variable)} hides all GPUs")
    search = _Search(wanted, int(index or 0), variable, driver, cuda, check or run_check)
    return search.by_nvml() or search.by_cuda()


@dataclass(frozen=True)
class _Search:
    wanted: str
    index: int
    variable: str | None
    driver: Driver
    cuda: str
    check: Check

    def by_nvml(self) -> Device | None:
        """The GPU as NVML has it; None where that does not say enough, or what CUDA does not
        confirm.

        Raises:
            InputError: if it is not there, or can't be used.
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
            raise _not_there(self.wanted, _number_shown(len(gpus)) + (why and f" ({why})"))

        def tried(number: int) -> _Tried | None:
            answer = self.check(gpus[number].uuid, 0)
            return _Tried(number, gpus[number], answer) if len(answer.gpus) == 1 else None

        return self._first_usable(len(gpus), tried)

    def by_cuda(self) -> Device:
        """The GPU as torch itself finds it; the CPU where a driver without a problem has none.

        Raises:
            InputError: if it is not there, or can't be used.
        """
        answer = self.check(self.variable, self.index)
        if self.index < len(answer.gpus):

            def tried(number: int) -> _Tried:
                seen = answer if number == self.index else self.check(self.variable, number)
                return self._as_worker_sees(_Tried(number, answer.gpus[number], seen))

            device = self._first_usable(len(answer.gpus), tried)
            if device is not None:
                return device
        if answer.gpus:
            raise _not_there(self.wanted, _number_shown(len(answer.gpus)))
        why = answer.problem.rstrip(".") or "torch sees none"
        works = self.driver.is_there and not self.driver.problem
        if works and not self.driver.boards and self.wanted == "auto":
            return Device(notes=() if self.driver.version else (f"no GPU is used: {why}",))
        self._compare_driver()
        if self.variable is not None:
            why += f" ({_given(self.variable)})"
        if self.driver.problem:
            why += f" ({self.driver.problem})"
        raise InputError(f"no GPU can be used: {why}; mend that, or {ON_CPU}")

    def _as_worker_sees(self, of: "_Tried") -> "_Tried":
        """A GPU that torch found, tried again by a name that shows it, and it alone, to workers."""
        entries = None if self.variable is None else self.variable.split(",")
        entry = str(of.number) if entries is None else entries[of.number].strip()
        gpu = replace(of.gpu, driver=self.driver.version or "unknown")
        # torch may give an instance the UUID of the GPU that it is on, and one without its kind
        names = [gpu.uuid, gpu.uuid.replace("GPU-", "MIG-", 1)]
        for name in [entry] if entry.startswith("MIG-") else names:
            answer = self.check(name, 0)
            if len(answer.gpus) == 1:
                return _Tried(of.number, replace(gpu, uuid=name), answer)
        return _Tried(of.number, replace(gpu, uuid=entry), of.answer)

    def _first_usable(self, count: int, tried: Callable[[int], "_Tried | None"]) -> Device | None:
        """The GPU of the index, with `auto` the first that can be used; None if it is not shown.

        One that is busy, or full, may be used by another grid, and is waited for if need be.

        Raises:
            InputError: if there is none such.
        """
        failed: list[_Tried] = []
        for number in range(count) if self.wanted == "auto" else [self.index]:
            of = tried(number)
            if of is None:
                return None
            if not of.problem:
                return of.device(*(f"cuda:{no.number} is not used: {no.problem}" for no in failed))
            failed.append(of)
        for of in failed:
            if of.is_busy:
                return of.device(f"cuda:{of.number}: {of.problem}; it is tried again as cells run")
        self._compare_driver()
        others = [number for number in range(count) if self.wanted != "auto"]
        able = [f"cuda:{of.number}" for of in map(tried, others) if of and not of.problem]
        remedy = "install one built for it" if failed[0].is_too_old else "mend that"
        remedy = f"take {' or '.join(able)}" if able else remedy
        raise InputError(f"{failed[0].problem}; {remedy}, or {ON_CPU}")

    def _compare_driver(self) -> None:
        """Say of a failure that the driver is older than torch's CUDA; minor versions go together.

        Raises:
            InputError: if it is.
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
    """A GPU, the number that it has as `cuda:i`, and what came of trying it."""

    number: int
    gpu: GpuInfo
    answer: Answer

    @property
    def problem(self) -> str:
        """Why it can't compute in fp32; empty: it can."""
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
        """Whether torch was built for later GPUs alone."""
        built = self.answer.capabilities
        return bool(built) and self.gpu.capability < min(built)

    @property
    def is_busy(self) -> bool:
        """Whether the problem is one that another process makes, and ends."""
        return any(sign in self.problem for sign in _BUSY)

    def device(self, *notes: str) -> Device:
        """It as the device. What a busy one can't compute nobody knows."""
        failures = {} if self.problem else self.answer.failures
        return Device(f"cuda:{self.number}", self.gpu, failures, notes)


def _not_there(wanted: str, why: str) -> InputError:
    return InputError(f"--device: {wanted} is not there: {why}; {ON_CPU}")


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
