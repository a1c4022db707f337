"""Checks a GPU with torch: `python -m bench.machine.gpu_check`, whose request is its index.

`bench.machine.gpu_trial` starts it before anything is planned, so that the planning process does
not load torch, and survives a driver that hangs or crashes.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import torch

from bench.common.child import serve
from bench.common.messages import one_line
from bench.machine.gpu_trial import Answer, GpuInfo

DTYPES: Final = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Types by the value of `amp` that computes in them."""

_SIZE: Final = 32
_ARCHITECTURE: Final = re.compile(r"_(\d+)(\d)[a-z]?$")


def check(index: int) -> dict[str, Any]:
    """The fields of an `Answer`: the failures are those of the GPU with an index."""
    built = [m for name in torch.cuda.get_arch_list() if (m := _ARCHITECTURE.search(name))]
    capabilities = tuple(sorted({(int(m[1]), int(m[2])) for m in built}))
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        gpus = tuple(
            GpuInfo(g.name, "", (g.major, g.minor), f"GPU-{g.uuid}", g.total_memory // 2**20)
            for g in properties
        )
    except (RuntimeError, AssertionError) as error:
        return asdict(Answer(problem=_first_line(error), capabilities=capabilities))
    failures = failures_on(f"cuda:{index}") if index < len(gpus) else {}
    return asdict(Answer(gpus, failures=failures, capabilities=capabilities))


def failures_on(device: str) -> Mapping[str, str]:
    """The reasons why products can't be computed on a device, by value of `amp`."""
    failures = {}
    for amp, dtype in DTYPES.items():
        try:
            ones = torch.ones(_SIZE, _SIZE, dtype=dtype, device=device)
            result = float((ones @ ones).sum())
            if result != _SIZE**3:
                failures[amp] = f"a product of ones gave {result:g} instead of {_SIZE**3}"
        except RuntimeError as error:
            failures[amp] = _first_line(error)
    return failures


def _first_line(error: BaseException) -> str:
    return one_line(str(error).partition("\n")[0]) or type(error).__name__


if __name__ == "__main__":
    sys.exit(serve(lambda index: [check(index)]))
