"""The device that a command's cells run on: chosen by --device, and tried before they do.

A GPU is found by NVML, and tried by torch in a process of its own (`bench.gpu_check`) that sees
only that GPU, as a worker will. Where NVML says nothing that can be used, that process finds it.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final

from bench.environment import BY_BUS, ORDER, VISIBLE
from bench.errors import InputError
from bench.messages import one_line, shown
from bench.nvml import Driver, GpuInfo, hides_all, read_driver, visible

PATIENCE_S: Final = 120.0
"""Loading torch and one product take seconds; from a slow network's folder, a minute."""

_BF16_CAPABILITY: Final = (8, 0)
_ON_CPU: Final = "--device cpu runs on the CPU"
_ARCHITECTURE: Final = re.compile(r"_(\d+)(\d)[a-z]?$")


@dataclass(frozen=True)
class Answer:
    """What `bench.gpu_check` printed: the GPUs that it saw, or the problem, and by value of `amp`
    why the GPU that was asked for can't compute."""

    gpus: tuple[GpuInfo, ...] = ()
    problem: str = ""
    failures: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[tuple[int, int], ...] = ()
    """Those that torch was built for."""


Check = Callable[[str | None, int], Answer]
"""Tries the GPU of an index among those that a value of CUDA_VISIBLE_DEVICES shows."""


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
    CUDA_VISIBLE_DEVICES hides all GPUs; not where there is one that can't be used.

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
    gpu, failures = search.by_nvml() or search.by_cuda()
    return Device() if gpu is None else Device(f"cuda:{search.index}", gpu, failures)


@dataclass(frozen=True)
class _Search:
    wanted: str
    index: int
    variable: str | None
    driver: Driver
    cuda: str
    check: Check

    def by_nvml(self) -> tuple[GpuInfo, Mapping[str, str]] | None:
        """The GPU as NVML has it; None where that says nothing, or what CUDA does not confirm.

        Raises:
            InputError: if it is not there, or can't be used.
        """
        if not self.driver.boards:
            return None
        gpus, problem = visible(self.variable, self.driver.boards)
        why = f"{_given(self.variable)}: {problem}" if problem else ""
        if not gpus:
            here = [f"{i} ({board.uuid})" for i, board in enumerate(self.driver.boards)]
            raise InputError(f"{why}; the GPUs are {', '.join(here[:8])}; {_ON_CPU}")
        if self.index >= len(gpus):
            raise _not_there(self.wanted, _number_shown(len(gpus)) + (why and f" ({why})"))
        gpu = gpus[self.index]
        self._compare_driver()
        answer = self.check(gpu.uuid, 0)
        return _tried(gpu, answer) if len(answer.gpus) == 1 else None

    def by_cuda(self) -> tuple[GpuInfo | None, Mapping[str, str]]:
        """The GPU as torch itself finds it; None where a driver without a problem has none.

        Raises:
            InputError: if it is not there, or can't be used.
        """
        answer = self.check(self.variable, self.index)
        if self.index < len(answer.gpus):
            gpu = replace(answer.gpus[self.index], driver=self.driver.version or "unknown")
            entries = (self.variable or "").split(",")
            if entries[0].startswith("MIG-"):  # torch may give the UUID of the GPU that it is on
                gpu = replace(gpu, uuid=entries[self.index].strip())
            return _tried(gpu, answer)
        if answer.gpus:
            raise _not_there(self.wanted, _number_shown(len(answer.gpus)))
        works = self.driver.is_there and not self.driver.problem
        if works and not self.driver.boards and self.wanted == "auto":
            return None, {}
        why = answer.problem.rstrip(".") or "torch sees none"
        if self.variable is not None:
            why += f" ({_given(self.variable)})"
        if self.driver.problem:
            why += f" ({self.driver.problem})"
        raise InputError(f"no GPU can be used: {why}; mend that, or {_ON_CPU}")

    def _compare_driver(self) -> None:
        """Refuse a driver that is older than torch's CUDA; minor versions go together."""
        driver = self.driver
        if driver.cuda is not None and driver.cuda[0] < int(self.cuda.partition(".")[0]):
            raise InputError(
                f"the NVIDIA driver {driver.version} supports CUDA {_dotted(driver.cuda)}, and the "
                f"installed torch was built with CUDA {self.cuda}: update the driver, or install a "
                f"torch built with CUDA {driver.cuda[0]}; {_ON_CPU}"
            )


def _tried(gpu: GpuInfo, answer: Answer) -> tuple[GpuInfo, Mapping[str, str]]:
    """A GPU that computes, and what it does not.

    Raises:
        InputError: if it can't compute in fp32.
    """
    problem = answer.failures.get("off")
    if problem is None:
        return gpu, answer.failures
    built = answer.capabilities
    if built and gpu.capability < min(built):
        raise InputError(
            f"{gpu.name} has compute capability {_dotted(gpu.capability)}, and the installed torch "
            f"was built for {', '.join(map(_dotted, built))}: install one built for it; {_ON_CPU}"
        )
    raise InputError(f"{gpu.name} can't be used: {problem}; mend that, or {_ON_CPU}")


def _not_there(wanted: str, why: str) -> InputError:
    return InputError(f"--device: {wanted} is not there: {why}; {_ON_CPU}")


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


@cache
def run_check(value: str | None, index: int) -> Answer:
    """Run `bench.gpu_check` with a value of CUDA_VISIBLE_DEVICES; None leaves what is inherited.

    Raises:
        InputError: if it does not end, or not with an answer.
    """
    env = {**os.environ, ORDER: BY_BUS, **({} if value is None else {VISIBLE: value})}
    return check_by([sys.executable, "-m", "bench.gpu_check", str(index)], env)


def check_by(argv: Sequence[str], env: Mapping[str, str], patience_s: float = PATIENCE_S) -> Answer:
    """The answer of a process.

    Raises:
        InputError: as `run_check`.
    """
    process = subprocess.Popen(
        argv,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        out, err = process.communicate(timeout=patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # a driver that hangs can keep it from ending
            process.communicate(timeout=1)
        raise InputError(
            f"the GPU did not answer in {patience_s:g} s: look at it with nvidia-smi; {_ON_CPU}"
        ) from None
    except BaseException:
        process.kill()
        raise
    lines = out.strip().splitlines() or [""]
    try:
        return _answer(json.loads(lines[-1]))
    except (ValueError, TypeError, KeyError, AttributeError):
        code = process.returncode
        last = one_line((err.strip().splitlines() or [""])[-1])
        why = f"signal {-code}" if code < 0 else last or f"exit code {code}"
        raise InputError(f"torch ended while it tried the GPU: {why}; {_ON_CPU}") from None


def _answer(values: dict[str, Any]) -> Answer:
    """An answer from its JSON.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: for anything else.
    """
    gpus = [
        GpuInfo(
            str(of["name"]),
            "",
            (int(of["capability"][0]), int(of["capability"][1])),
            f"GPU-{of['uuid']}",
        )
        for of in values.get("gpus", [])
    ]
    built = (_ARCHITECTURE.search(name) for name in values["architectures"])
    return Answer(
        gpus=tuple(gpus),
        problem=one_line(values.get("problem", "")),
        failures={amp: one_line(why) for amp, why in values.get("failures", {}).items()},
        capabilities=tuple(sorted({(int(m[1]), int(m[2])) for m in built if m is not None})),
    )
