"""Runs `bench.machine.gpu_check`, a process that checks a GPU, and reads its output."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydantic import TypeAdapter

from bench.common.child import ChildError, ask_by
from bench.common.errors import InputError
from bench.machine.environment import BY_BUS, ORDER, VISIBLE

ON_CPU: Final = "--device cpu runs on the CPU"  # the remedy that messages name
PATIENCE_S: Final = 120.0
"""Loading torch and one product take seconds, or a minute from a slow network folder."""


@dataclass(frozen=True)
class GpuInfo:
    """A GPU; `uuid` is its name in CUDA_VISIBLE_DEVICES, `GPU-…` or `MIG-…`."""

    name: str
    driver: str
    capability: tuple[int, int]
    uuid: str
    memory_mib: int = 0

    @property
    def kind(self) -> str:
        return f"{self.name}, {round(self.memory_mib / 2**10)} GiB"


@dataclass(frozen=True)
class Answer:
    """The output of `bench.machine.gpu_check`: the GPUs that it saw, or the problem, and the
    reasons why the GPU in question can't compute, by value of `amp`."""

    gpus: tuple[GpuInfo, ...] = ()
    problem: str = ""
    failures: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[tuple[int, int], ...] = ()
    """The compute capabilities that torch was built for."""


Check = Callable[[str | None, int], Answer]
"""Checks a GPU, given a value of CUDA_VISIBLE_DEVICES and an index among the GPUs it shows."""


def check_gpu(value: str | None, index: int) -> Answer:
    """Run `bench.machine.gpu_check` with a value of CUDA_VISIBLE_DEVICES; None inherits it.
    InputError if it does not end in time, or without an answer."""
    env = {**os.environ, ORDER: BY_BUS, **({} if value is None else {VISIBLE: value})}
    return check_by([sys.executable, "-m", "bench.machine.gpu_check"], env, index=index)


def why_unusable(gpu: str) -> str | None:
    """The reason why a GPU can't compute now, given its UUID; None if it can."""
    try:
        answer = check_gpu(gpu, 0)
    except InputError as error:
        return str(error)
    if not answer.gpus:
        return answer.problem or "torch sees none"
    return answer.failures.get("off")


def check_by(
    argv: Sequence[str], env: Mapping[str, str], patience_s: float = PATIENCE_S, index: int = 0
) -> Answer:
    try:
        *_, last = ask_by(argv, index, env=env, patience_s=patience_s)
    except ChildError as error:
        if error.is_late:
            raise InputError(
                f"the GPU did not answer in {patience_s:g} s: look at it with nvidia-smi; {ON_CPU}"
            ) from None
        raise InputError(f"torch ended while it tried the GPU: {error}; {ON_CPU}") from None
    return TypeAdapter(Answer).validate_python(last)
