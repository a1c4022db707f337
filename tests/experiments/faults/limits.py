"""Limits that take root: a control group's memory, and a disk that is small."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_MOUNTS: Final = Path("/sys/fs/cgroup")
_LIMITS: Final = {"memory.limit_in_bytes": 1, "memory.max": 1, "memory.swap.max": 0}
"""Files of control groups of version 1 and 2, and how often they have the limit."""
_PAGE: Final = 4096


@contextmanager
def memory_group(name: str, limit: int) -> Iterator[Path | None]:
    """A control group whose processes have `limit` bytes; None where none can be made."""
    group = next(filter(None, (_make_group(parent / name, limit) for parent in _parents())), None)
    try:
        yield group
    finally:
        if group is not None:
            _remove(group)


def _make_group(group: Path, limit: int) -> Path | None:
    try:
        group.mkdir()
    except OSError:
        return None
    try:
        files = [file for file in _LIMITS if (group / file).exists()]
        for file in files:
            (group / file).write_text(str(_LIMITS[file] * limit))
        if files:
            return group
    except OSError:
        pass
    _remove(group)
    return None


def _parents() -> Iterator[Path]:
    """The groups in which one can be made, in version 1 and 2 of control groups."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            root = _MOUNTS if number == "0" else _MOUNTS / "memory"
            yield from (one for one in (root, root / path[1:]) if (one / "cgroup.procs").exists())


def _remove(group: Path) -> None:
    for _ in range(100):
        with suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.02)


@contextmanager
def small_disk(folder: Path, pages: int) -> Iterator[Path | None]:
    """A disk at `folder` with so many pages left; the file that fills it, None without the right.

    Removing that file makes space again.
    """
    argv = ["/bin/mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(argv, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        filler = folder / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"\0" * _PAGE)
        os.truncate(filler, filler.stat().st_size - pages * _PAGE)
        yield filler
    finally:
        subprocess.run(["/bin/umount", "-l", str(folder)], check=True)
