"""Checks a GPU with torch, in a process of its own: `python -m bench.machine.gpu_trial`, whose
request is the GPU's index.

It starts before anything is planned, so that the planning process does not load torch, and survives
a driver that hangs or crashes.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from pydantic import TypeAdapter

from bench.common.child import ChildError, LateError, ask_by, serve
from bench.common.errors import InputError
from bench.common.messages import one_line
from bench.machine.environment import BY_BUS, ORDER, VISIBLE

ON_CPU: Final = "--device cpu runs on the CPU"  # the remedy that messages name
PATIENCE_S: Final = 120.0
"""Loading torch and one product take seconds, or a minute from a slow network folder."""
_DTYPES: Final = {"off": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Torch's types by the value of `amp` that computes in them."""
_SIZE: Final = 32
_ARCHITECTURE: Final = re.compile(r"_(\d+)(\d)[a-z]?$")


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
    """The process's answer: the GPUs that it saw, or the problem, and the reasons why the GPU in
    question can't compute, by value of `amp`."""

    gpus: tuple[GpuInfo, ...] = ()
    problem: str = ""
    failures: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[tuple[int, int], ...] = ()
    """The compute capabilities that torch was built for."""


def check_gpu(value: str | None, index: int) -> Answer:
    """Check a GPU, by its index among those that a value of CUDA_VISIBLE_DEVICES shows; None
    inherits it. InputError if the process does not end in time, or without an answer."""
    env = {**os.environ, ORDER: BY_BUS, **({} if value is None else {VISIBLE: value})}
    return check_by([sys.executable, "-m", "bench.machine.gpu_trial"], env, index=index)


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
    except LateError:
        raise InputError(
            f"the GPU did not answer in {patience_s:g} s: look at it with nvidia-smi; {ON_CPU}"
        ) from None
    except ChildError as error:
        raise InputError(f"torch ended while it tried the GPU: {error}; {ON_CPU}") from None
    return TypeAdapter(Answer).validate_python(last)


def check(index: int) -> dict[str, Any]:
    """The fields of an `Answer`: the failures are those of the GPU with an index."""
    import torch

    built = [m for name in torch.cuda.get_arch_list() if (m := _ARCHITECTURE.search(name))]
    capabilities = tuple(sorted({(int(m[1]), int(m[2])) for m in built}))
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        gpus = tuple(
            GpuInfo(g.name, "", (g.major, g.minor), f"GPU-{g.uuid}", g.total_memory // 2**20)
            for g in properties
        )
    except Exception as error:  # noqa: BLE001 (what fails at first may be of any kind)
        return asdict(Answer(problem=_first_line(error), capabilities=capabilities))
    failures = failures_on(f"cuda:{index}") if index < len(gpus) else {}
    return asdict(Answer(gpus, failures=failures, capabilities=capabilities))


def failures_on(device: str) -> Mapping[str, str]:
    """The reasons why products can't be computed on a device, by value of `amp`."""
    import torch

    failures = {}
    for amp, name in _DTYPES.items():
        try:
            ones = torch.ones(_SIZE, _SIZE, dtype=getattr(torch, name), device=device)
            result = float((ones @ ones).sum())
            if result != _SIZE**3:
                failures[amp] = f"a product of ones gave {result:g} instead of {_SIZE**3}"
        except Exception as error:  # noqa: BLE001 (likewise)
            failures[amp] = _first_line(error)
    return failures


def _first_line(error: BaseException) -> str:
    return one_line(str(error).partition("\n")[0]) or type(error).__name__


if __name__ == "__main__":
    sys.exit(serve(lambda index: [check(index)]))
