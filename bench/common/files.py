"""Files that are there whole or not at all, whenever the machine stops."""

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
"""What is raised where the disk, or a share of it, is full."""
_NO_FOLDER_SYNC: Final = (errno.EINVAL, errno.ENOTSUP)
"""What filesystems answer that have no fsync of folders."""


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path`, replacing what is there; durable on return.

    A writer that is killed leaves a file `.NAME.tmp`, which the next writer of `path` uses up.

    Raises:
        OSError: and then what was at `path` before is still there, and nothing else.
    """
    path = Path(os.path.realpath(path))
    with _unfinished(path) as (written, file):
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            written.replace(path)
        except BaseException:
            with suppress(OSError):
                written.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


@contextmanager
def _unfinished(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """An empty file beside `path`, and its own path.

    The lock tells what a killed writer left from what another is writing at this moment; beside
    the other's file, this one's is called after the process.
    """
    usual = path.with_name(f".{path.name}.tmp")
    with usual.open("ab") as file:
        if _locked(file, usual):
            file.truncate(0)
            yield usual, file
            return
    own = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with own.open("wb") as file:
        yield own, file


def _locked(file: BinaryIO, path: Path) -> bool:
    """Whether this process alone writes to an open file, and the file is still the one at `path`.

    Another writer may have renamed it between its opening and the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def remove_unfinished(folder: Path) -> None:
    """Remove what killed writers have left below a folder, safetensors' own files among it.

    Nothing may be writing there.
    """
    with suppress(OSError):
        for pattern in (".*.tmp", ".tmp*"):
            for path in folder.rglob(pattern):
                path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make new and renamed entries of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def folder_for_now(folder: Path) -> Iterator[None]:
    """Create a folder and its missing parents, and remove those again."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def try_to_write(folder: Path) -> None:
    """Write to a file in a folder that has no name there, or only for a moment.

    It tries, for permissions say nothing to root.

    Raises:
        OSError: if that can't be done.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\n")
