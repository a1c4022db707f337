"""Locks that grids share: one for each cell of a runs.csv, and one for each device of a machine.

Each lock is a byte of one file, chosen by the digest of its name. The kernel releases it when its
process ends, however that ends. A lock belongs to a process: its threads hold it together, and the
last of them gives it back.
"""

import fcntl
import hashlib
import os
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from socket import gethostname
from threading import Lock
from typing import Final

import platformdirs
import psutil

from bench.common.errors import DiskFullError, InputError, StoppedError
from bench.common.files import make_private
from bench.common.messages import one_line
from bench.launch.signals import Signals

CELL_LOCKS: Final = "grids.lock"
"""The file of the locks on cells, beside the folders of these cells."""
FOLDER: Final = "MINBERT_BENCH_LOCKS"
"""Environment: the folder of the locks on devices; by default one in the user's cache."""

_FLOCK: Final = "hhqqi0q"  # struct flock: type, whence, start, length, process
_POLL_S: Final = 0.1
"""Seconds after which a lock that another process has is tried again, and a stop is noticed."""


def device_locks() -> Path:
    """The file of the locks on this machine's devices, which all grids of a user share.

    Whoever can open it can stop these grids, so its folder is the user's alone. It is in the user's
    cache: $XDG_RUNTIME_DIR is removed at the last logout, while a grid may still run, and cron jobs
    have none. The cache may be shared by several machines, hence the name of the machine.
    InputError if the folder is a link or another user's, or others can open its files.
    """
    given = os.environ.get(FOLDER)
    folder = Path(given) if given else platformdirs.user_cache_path("minbert-bench") / "locks"
    try:
        is_private = make_private(folder)
    except OSError as error:
        raise DiskFullError(
            f"{folder}: can't be used for locks ({error.strerror}); {FOLDER} names another folder"
        ) from error
    if not (given or is_private):
        raise InputError(
            f"{folder}: other users can use its locks and stop your grids; make it yours alone "
            f"(chmod 700), or name another folder by {FOLDER}"
        )
    return folder / f"{gethostname()}-{os.getuid()}.lock"


class Locks(AbstractContextManager["Locks"]):
    """The locks in a file, for this process, which is created with some permissions if it is
    missing. Signals end a wait, by a StoppedError. DiskFullError if the file can't be created or
    locked."""

    def __init__(self, path: Path, signals: Signals, mode: int = 0o600) -> None:
        self._path = path
        self._signals = signals
        self._counts: Counter[str] = Counter()
        self._mutex = Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(path, flags, mode)
        except OSError as error:
            raise self._failed(error) from error

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    @contextmanager
    def holding(self, name: str, on_wait: Callable[[str], None] | None = None) -> Iterator[bool]:
        """Hold a lock; yields false if another process has it. With `on_wait`, call this, with a
        message that names it, and wait. It may have done what the lock is for: check that."""
        has_it = self._take(name, on_wait)
        try:
            yield has_it
        finally:
            if has_it:
                self._give(name)

    @contextmanager
    def using(self, device: str, on_wait: Callable[[str], None]) -> Iterator[None]:
        """Hold a device, calling `on_wait` before a wait. A grid that has just had it queues behind
        those that wait."""
        with self.holding(f"next on {device}", on_wait):
            self._take(device, on_wait)
        try:
            yield
        finally:
            self._give(device)

    def _take(self, name: str, on_wait: Callable[[str], None] | None) -> bool:
        if self._acquire(name):
            return True
        if on_wait is None:
            return False
        on_wait(f"waiting for another grid{self._holder(name)}")
        while True:
            if self._signals.stops:
                raise StoppedError
            time.sleep(_POLL_S)
            if self._acquire(name):
                return True

    def _acquire(self, name: str) -> bool:
        """Take a lock that no other process has; false if one has it."""
        with self._mutex:
            try:
                if not self._counts[name]:
                    self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, name)
            except (BlockingIOError, PermissionError):  # POSIX allows both for a lock that is held
                return False
            except OSError as error:
                raise self._failed(error) from error
            self._counts[name] += 1
            return True

    def _give(self, name: str) -> None:
        with self._mutex:
            self._counts[name] -= 1
            if not self._counts[name]:
                self._lock(fcntl.LOCK_UN, name)

    def _lock(self, command: int, name: str) -> None:
        fcntl.lockf(self._descriptor, command, 1, _place(name))

    def _holder(self, name: str) -> str:
        """The process that has a lock, in brackets; empty if it is not of this machine."""
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _place(name), 1, 0)
        with suppress(OSError, ValueError, psutil.Error):  # it may end meanwhile
            answer = fcntl.fcntl(self._descriptor, fcntl.F_GETLK, asked)
            process = psutil.Process(struct.unpack(_FLOCK, answer)[-1])
            begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(process.create_time()))
            command = one_line(" ".join(process.cmdline()))
            return f" (process {process.pid}, since {begun}: {command})"
        return ""

    def _failed(self, error: OSError) -> DiskFullError:
        return DiskFullError(f"{self._path}: can't be locked ({error.strerror or error})")


def _place(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])
