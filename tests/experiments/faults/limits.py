"""Limits that take root: a control group's memory, and a disk that is small."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_MOUNTS: Final = Path("/sys/fs/cgroup")
_PAGE: Final = 4096


@contextmanager
def memory_group(name: str, limit: int) -> Iterator[Path | None]:
    """A control group whose processes have `limit` bytes; None where none can be made."""
    group = _make_group(name, limit)
    try:
        yield group
    finally:
        if group is not None:
            _remove(group)


def _make_group(name: str, limit: int) -> Path | None:
    for parent, files in _parents():
        group = parent / name
        if not (parent / "cgroup.procs").exists():
            continue
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            for file, text in files.items():
                (group / file).write_text(text.format(limit=limit))
        except OSError:
            _remove(group)
            continue
        return group
    return None


def _parents() -> Iterator[tuple[Path, dict[str, str]]]:
    """Where a group can be, and the files that limit it, in version 1 and 2 of control groups."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            root, files = _MOUNTS / "memory", {"memory.limit_in_bytes": "{limit}"}
        elif number == "0":
            root, files = _MOUNTS, {"memory.max": "{limit}", "memory.swap.max": "0"}
        else:
            continue
        for parent in (root, root / path.lstrip("/")):
            yield parent, files


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
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if mount is None or unmount is None or os.geteuid() != 0:
        yield None
        return
    argv = [mount, "-t", "tmpfs", "-o", "size=16m", "none", str(folder)]
    if subprocess.run(argv, capture_output=True, check=False).returncode != 0:
        yield None
        return
    try:
        filler = folder / "filler"
        _fill(filler)
        os.truncate(filler, filler.stat().st_size - pages * _PAGE)
        yield filler
    finally:
        subprocess.run([unmount, "-l", str(folder)], check=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * _PAGE)
