"""`python -m bench.machine.gpu_check INDEX` prints what torch can do with a GPU, as a line of JSON.

`bench.machine.gpu_trial` starts it before anything is planned, so that torch stays out of the
process that plans, and a driver that hangs or crashes takes another process with it.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any, Final

import torch

DTYPES: Final = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""By the value of `amp` that computes in it."""

_SIZE: Final = 32


def main(index: int) -> int:
    """Print what can be done with the GPU of an index; the exit code."""
    sys.stdout.write(f"\n{json.dumps(check(index))}\n")
    return 0


def check(index: int) -> dict[str, Any]:
    """What torch shows: the build, all GPUs, and by value of `amp` why the one of an index fails.

    `problem` is there instead of the GPUs where torch can use none.
    """
    shown: dict[str, Any] = {"architectures": torch.cuda.get_arch_list()}
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        gpus = [_described(number) for number in range(torch.cuda.device_count())]
    except (RuntimeError, AssertionError) as error:
        return {**shown, "problem": _first_line(error)}
    failures = failures_on(f"cuda:{index}") if index < len(gpus) else {}
    return {**shown, "gpus": gpus, "failures": failures}


def failures_on(device: str) -> Mapping[str, str]:
    """By value of `amp`, why a product in its type can't be computed on a device."""
    found = {}
    for amp, dtype in DTYPES.items():
        try:
            ones = torch.ones(_SIZE, _SIZE, dtype=dtype, device=device)
            result = float((ones @ ones).sum())
            if result != _SIZE**3:
                found[amp] = f"a product of ones gave {result:g} instead of {_SIZE**3}"
        except RuntimeError as error:
            found[amp] = _first_line(error)
    return found


def _described(number: int) -> dict[str, Any]:
    gpu = torch.cuda.get_device_properties(number)
    return {"name": gpu.name, "capability": [gpu.major, gpu.minor], "uuid": str(gpu.uuid)}


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bench.machine.gpu_check INDEX")
    sys.exit(main(int(sys.argv[1])))
