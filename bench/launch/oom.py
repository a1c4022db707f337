"""The number of processes in this one's control group that the kernel killed for lack of memory."""

from pathlib import Path
from typing import Final

_CGROUPS: Final = Path("/proc/self/cgroup")
_MOUNTS: Final = Path("/sys/fs/cgroup")


def oom_kills(cgroups: Path = _CGROUPS, mounts: Path = _MOUNTS) -> int | None:
    """The group's count of OOM kills so far, by cgroup v1 or v2; None where there is no count.

    Workers are in their parent's group, so the count rises when the kernel kills one.
    """
    for file in _files(cgroups, mounts):
        try:
            text = file.read_text(encoding="ascii")
        except (OSError, ValueError):
            continue
        for line in text.splitlines():
            key, _, count = line.partition(" ")
            if key == "oom_kill" and count.isdecimal():
                return int(count)
    return None


def _files(cgroups: Path, mounts: Path) -> list[Path]:
    """Files that may hold the count, the most specific first.

    In a container, the group's path may be that of the host, while its files are at the top of the
    mount.
    """
    try:
        lines = cgroups.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    files: list[Path] = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            root, name = mounts / "memory", "memory.oom_control"
        elif number == "0" and controllers == "":
            root, name = mounts, "memory.events"
        else:
            continue
        files += [root / path.lstrip("/") / name, root / name]
    return files
