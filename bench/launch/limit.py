"""A limit on the memory of workers: a control group of their own, by cgroup v2 or v1."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.launch.runner import group_folders, oom_kills_in

_LIMITS: Final = ("memory.max", "memory.limit_in_bytes")  # by version 2 and 1
_NO_SWAP: Final = ("memory.swap.max", "memory.swappiness")
_JOIN: Final = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
_REMOVE: Final = """read -r _; n=0
for folder; do while [ -d "$folder" ] && ! rmdir "$folder" && [ $n != 100 ]
do n=$((n+1)); sleep 0.1; done; done"""
"""A shell that removes groups when the process that holds its stdin ends, however that ends."""


@dataclass(frozen=True)
class Limited:
    folder: Path

    def argv(self, argv: Sequence[str]) -> list[str]:
        """A command that runs another one in the group."""
        return ["/bin/sh", "-c", _JOIN, str(self.folder), *argv]

    def kills(self) -> int:
        """How many processes the kernel has killed because of the limit."""
        return oom_kills_in(self.folder) or 0


@contextmanager
def limited(mib: float) -> Iterator[Limited | None]:
    """A group with a limit, which is removed at the end, even of a process that is killed; None
    where none can be made or joined. Nothing may run in it any more at the end."""
    folders = [parent / f"minbert-fit-{os.getpid()}" for parent in group_folders()]
    if not folders:
        yield None
        return
    remover = subprocess.Popen(
        ["/bin/sh", "-c", _REMOVE, "sh", *map(str, folders)], stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        made = (_made(folder, mib) for folder in folders)
        yield next((group for group in made if group is not None), None)
    finally:
        remover.communicate()


def _made(folder: Path, mib: float) -> Limited | None:
    with suppress(OSError):  # left by a process of the same number
        folder.rmdir()
    try:
        folder.mkdir()
    except OSError:
        return None
    with suppress(OSError):
        limits = [folder / name for name in _LIMITS if (folder / name).is_file()]
        for path in limits:
            path.write_text(str(int(mib * 2**20)))
        for path in filter(Path.is_file, (folder / name for name in _NO_SWAP)):
            path.write_text("0")
        group = Limited(folder)
        joined = group.argv(["true"])
        if limits and subprocess.run(joined, capture_output=True, check=False).returncode == 0:
            return group
    with suppress(OSError):
        folder.rmdir()
    return None
