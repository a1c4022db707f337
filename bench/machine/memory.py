"""The host memory that a process started now could use. Imports no torch."""

import resource
from pathlib import Path
from typing import Final

import psutil

MIB: Final = 2**20
CGROUPS: Final = Path("/sys/fs/cgroup")
_FILES: Final = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        *("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
        *("memory/memory.stat", "total_inactive_file"),
    ),
)
"""A control group's limit and use, and the part of the latter that the kernel takes back when it
needs it: cached files; by cgroup v2 and v1."""


def available_mib(groups: Path = CGROUPS) -> tuple[float, str]:
    """The least that the system, the control group or the process's limits leave, and its name."""
    left = {"free on this machine": float(psutil.virtual_memory().available)}
    for *files, cached in _FILES:
        try:
            most, used, stat = ((groups / name).read_text(encoding="ascii") for name in files)
            words = stat.split()
            needed = int(used) - int(words[words.index(cached) + 1])
            left["left by the control group's limit"] = float(max(0, int(most) - needed))
        except (OSError, ValueError):  # no such group, or no limit: "max"
            continue
    for name, limit_of in (("address space", resource.RLIMIT_AS), ("data", resource.RLIMIT_DATA)):
        soft = resource.getrlimit(limit_of)[0]
        if soft != resource.RLIM_INFINITY:
            left[f"allowed by the limit on {name} (ulimit)"] = float(soft)
    limiting, least = min(left.items(), key=lambda item: item[1])
    return least / MIB, limiting
