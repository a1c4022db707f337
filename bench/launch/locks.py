"""Locks that grids share: one for each cell of a runs.csv, and one for each device of a machine.

Each lock is a byte of one file, chosen by the digest of its name. The kernel releases it when its
process ends, however that ends. A process that waits for a lock sleeps in the kernel.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from bench.common.errors import DiskFullError
from bench.launch.signals import Signals

CELL_LOCKS: Final = "grids.lock"
"""The file of the locks on cells, beside the folders of these cells."""
FOLDER: Final = "MINBERT_BENCH_LOCKS"
"""Environment: the folder of the locks on devices; by default the one for temporary files."""

T = TypeVar("T")


def device_locks() -> Path:
    """The file of the locks on this machine's devices, which all grids of a user share."""
    folder = os.environ.get(FOLDER) or tempfile.gettempdir()
    return Path(folder) / f"minbert-bench-{os.getuid()}.lock"


class Locks:
    """The locks in a file, for this process.

    Args:
        path: the file, created if it is missing.
        signals: end a wait when the user stops the run.
        on_wait: called before a wait begins.

    Raises:
        DiskFullError: if the file can't be created or locked.
        StoppedError: if a wait was ended.
    """

    def __init__(self, path: Path, signals: Signals, on_wait: Callable[[], None]) -> None:
        self._path = path
        self._signals = signals
        self._on_wait = on_wait
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> "Locks":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def each(self, items: Iterable[T], name: Callable[[T], str]) -> Iterator[T]:
        """Yield each item while its lock is held; items that others hold come last, once free.

        Another process may have done the work on such an item: check before doing it.
        """
        later: list[T] = []
        for wait in (False, True):
            for item in later if wait else items:
                if not self._take(name(item), wait=wait):
                    later.append(item)
                    continue
                try:
                    yield item
                finally:
                    self._give(name(item))

    @contextmanager
    def turn(self, device: str) -> Iterator[None]:
        """Hold a device. Grids take turns: one that has just had it queues behind the waiting."""
        queue = f"next on {device}"
        self._take(queue)
        try:
            self._take(device)
        finally:
            self._give(queue)
        try:
            yield
        finally:
            self._give(device)

    def _take(self, name: str, *, wait: bool = True) -> bool:
        try:
            try:
                self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, name)
            except (BlockingIOError, PermissionError):  # POSIX allows both for a lock that is held
                if not wait:
                    return False
                self._on_wait()
                with self._signals.raising():
                    self._lock(fcntl.LOCK_EX, name)
        except OSError as error:
            raise self._failed(error) from error
        return True

    def _give(self, name: str) -> None:
        self._lock(fcntl.LOCK_UN, name)

    def _lock(self, command: int, name: str) -> None:
        at = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])
        fcntl.lockf(self._descriptor, command, 1, at)

    def _failed(self, error: OSError) -> DiskFullError:
        return DiskFullError(f"{self._path}: can't be locked ({error.strerror or error})")
