"""Whether training steps can be compiled on a device, and gain by it. Free of torch."""

import os
import re
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from bench.machine.devices import Device
from minbert.training import COMPILES_FROM

_TRITON_FROM: Final = (7, 0)
"""The compute capability from which on triton makes code."""


def why_no_compiling(device: Device, torch_version: str) -> str:
    """The reason why `compile` auto is off: it does not pay, or something is missing; else empty.

    On a GPU torch needs triton, which calls a C compiler for code that includes Python.h.
    """
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
