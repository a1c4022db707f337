"""The host memory that a process started now could use. Pure but for the system's files."""

import resource
from pathlib import Path
from typing import Final

import psutil

MIB: Final = 2**20
_CGROUPS: Final = Path("/sys/fs/cgroup")
_FILES: Final = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
"""A control group's limit and use, by cgroup v2 and v1."""


def available_mib(groups: Path = _CGROUPS) -> tuple[float, str]:
    """The least of what the system, the control group and the process's limits leave, with its
    name."""
    left = {"free on this machine": float(psutil.virtual_memory().available)}
    for limit, use in _FILES:
        try:
            most, used = (int((groups / name).read_text(encoding="ascii")) for name in (limit, use))
        except (OSError, ValueError):  # no such group, or no limit: "max"
            continue
        left["left by the control group's limit"] = float(max(0, most - used))
    for name, limit_of in (("address space", resource.RLIMIT_AS), ("data", resource.RLIMIT_DATA)):
        most = resource.getrlimit(limit_of)[0]
        if most != resource.RLIM_INFINITY:
            left[f"allowed by the limit on {name} (ulimit)"] = float(most)
    name, least = min(left.items(), key=lambda item: item[1])
    return least / MIB, name
