"""Locks that grids share: one for each cell of a runs.csv, and one for each device of a machine.

Each lock is a byte of one file, chosen by the digest of its name. The kernel gives it back when its
process ends, however that ends. Who waits for one sleeps in the kernel.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

from bench.common.errors import DiskFullError
from bench.launch.signals import Signals

CELL_LOCKS: Final = "grids.lock"
"""The file, among the folders of a CSV's cells, of the locks on those cells."""
FOLDER: Final = "MINBERT_BENCH_LOCKS"
"""Environment: the folder of the locks on devices; by default that for temporary files."""

T = TypeVar("T")


def device_locks() -> Path:
    """The file of the locks on this machine's devices, which all grids of a user share."""
    folder = os.environ.get(FOLDER) or tempfile.gettempdir()
    return Path(folder) / f"minbert-bench-{os.getuid()}.lock"


class Locks:
    """The locks in a file, for this process.

    Args:
        path: the file, made where it is missing.
        signals: end a wait when they tell to stop.
        on_wait: called before a wait begins.

    Raises:
        DiskFullError: if the file can't be made or locked.
        StoppedError: from a wait that was ended.
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def each(self, items: Iterable[T], name: Callable[[T], str]) -> Iterator[T]:
        """Each item while its lock is held; those that others hold come last, once they are free.

        What is done meanwhile with an item may have been done by the other: look before.
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
        """Hold a device. Grids take turns: who has just had it queues up behind who waits."""
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
            self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, name)
        except (BlockingIOError, PermissionError):  # POSIX allows both for a lock that is held
            if not wait:
                return False
        except OSError as error:
            raise self._failed(error) from error
        else:
            return True
        self._on_wait()
        try:
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
