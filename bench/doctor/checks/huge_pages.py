"""Transparent huge pages: whether the system has them, and whether workers get them."""

import os
import re
from pathlib import Path
from typing import Final

import torch

from bench.common.files import text_or_empty
from bench.doctor.check import Context, Finding, SkipError, judged

_ENABLED: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_PAGES: Final = Path("/proc/self/smaps_rollup")
_WANTED: Final = "glibc.malloc.hugetlb=1"
_BLOCK_MIB: Final = 256
SHARE: Final = 0.5
"""Of a block in huge pages: all of it on an idle machine, less where memory is fragmented."""


def check(context: Context) -> Finding:  # noqa: ARG001
    """Write to a tensor, and look at how much of it is in huge pages."""
    mode = re.search(r"\[(\w+)\]", text_or_empty(_ENABLED))
    if mode is None or mode[1] == "never":
        why = "has no transparent huge pages" if mode is None else "has turned huge pages off"
        raise SkipError(f"this system {why}: steps take longer than on machines with them")
    if _WANTED not in os.environ.get("GLIBC_TUNABLES", ""):
        raise SkipError("GLIBC_TUNABLES configures the allocator without them")
    before = _huge_mib()
    block = torch.empty(_BLOCK_MIB, 2**18).fill_(1.0)
    share = (_huge_mib() - before) * 2**20 / block.nbytes
    figures = {"mode": mode[1], "share": share}
    summary = f"{share:.0%} of {_BLOCK_MIB} MiB are in huge pages ({mode[1]})"
    remedy = "memory is fragmented: end other programs, or echo 1 > /proc/sys/vm/compact_memory"
    return judged(share >= SHARE, summary, remedy, figures)


def _huge_mib() -> float:
    kib = re.search(r"AnonHugePages:\s*(\d+)", text_or_empty(_PAGES))
    if kib is None:
        raise SkipError("this system does not report a process's huge pages")
    return int(kib[1]) / 1024
