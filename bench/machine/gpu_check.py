"""Check a GPU with torch and print a line of JSON: `python -m bench.machine.gpu_check INDEX`.

`bench.machine.gpu_trial` starts it before anything is planned, so that the planning process does
not load torch, and survives a driver that hangs or crashes.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any, Final

import torch

DTYPES: Final = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Types by the value of `amp` that computes in them."""

_SIZE: Final = 32


def main(index: int) -> int:
    """Print the result of checking a GPU; returns the exit code."""
    sys.stdout.write(f"\n{json.dumps(check(index))}\n")
    return 0


def check(index: int) -> dict[str, Any]:
    """Torch's build, all GPUs that it sees, and the failures of the GPU with an index.

    Where torch can use no GPU, the result has `problem` instead of the last two.
    """
    result: dict[str, Any] = {"architectures": torch.cuda.get_arch_list()}
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        gpus = [_described(number) for number in range(torch.cuda.device_count())]
    except (RuntimeError, AssertionError) as error:
        return {**result, "problem": _first_line(error)}
    failures = failures_on(f"cuda:{index}") if index < len(gpus) else {}
    return {**result, "gpus": gpus, "failures": failures}


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


def _described(number: int) -> dict[str, Any]:
    gpu = torch.cuda.get_device_properties(number)
    return {"name": gpu.name, "capability": [gpu.major, gpu.minor], "uuid": str(gpu.uuid)}


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bench.machine.gpu_check INDEX")
    sys.exit(main(int(sys.argv[1])))
