"""The number of processes in this one's control group that the kernel killed for lack of memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.common.files import text_or_empty

_CGROUPS: Final = Path("/proc/self/cgroup")
_MOUNTS: Final = Path("/sys/fs/cgroup")


def oom_kills(cgroups: Path = _CGROUPS, mounts: Path = _MOUNTS) -> int | None:
    """The group's count of OOM kills so far, by cgroup v1 or v2; None where there is no count.

    Workers are in their parent's group, so the count rises when the kernel kills one; of several
    that run at once it does not say which.
    """
    for file in _files(cgroups, mounts):
        words = text_or_empty(file).split()
        if "oom_kill" in words:
            return int(words[words.index("oom_kill") + 1])
    return None


def _files(cgroups: Path, mounts: Path) -> Iterator[Path]:
    """Files that may hold the count, the most specific first.

    In a container, the group's path may be that of the host, while its files are at the top of the
    mount.
    """
    for line in text_or_empty(cgroups).splitlines():
        controllers, _, group = line.partition(":")[2].partition(":")
        if "memory" in controllers.split(","):
            root, name = mounts / "memory", "memory.oom_control"
        elif line.startswith("0::"):
            root, name = mounts, "memory.events"
        else:
            continue
        yield root / group.lstrip("/") / name
        yield root / name
