"""Files that are written whole or not at all, whenever the machine stops."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk, or a used-up quota."""
_NO_FOLDER_SYNC: Final = (errno.EINVAL, errno.ENOTSUP)
"""Error numbers of file systems without fsync of folders."""


def text_or_empty(path: Path) -> str:
    """The text of a file; empty if it can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, replacing an earlier file; durable on return.

    Raises:
        OSError: if it can't be written. An earlier file at `path` is then unchanged.
    """
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which replaces `path` and is durable at the end of the context.

    After an error an earlier file at `path` is unchanged. A writer that is killed leaves a file
    `.NAME.tmp`, which the next writer of `path` reuses.

    Raises:
        OSError: if it can't be written.
    """
    path = Path(os.path.realpath(path))
    with _unfinished(path) as (temporary, file):
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


@contextmanager
def _unfinished(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """An empty temporary file in the folder of `path`, and its own path.

    A lock distinguishes the file of a killed writer from one that another process is writing. In
    the second case, this file has the process id in its name.
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
    """Lock an open file; false if another process has locked it, or it is no longer at `path`.

    Another writer may have renamed it since it was opened.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def umask() -> int:
    """The permissions that this process does not give to new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def remove_unfinished(folder: Path) -> None:
    """Remove temporary files of killed writers, also those of safetensors, below a folder.

    No process may be writing there.
    """
    with suppress(OSError):
        for pattern in (".*.tmp", ".tmp*"):
            for path in folder.rglob(pattern):
                path.unlink(missing_ok=True)


def remove_oldest(paths: Iterable[Path], most: int, kept: Path) -> None:
    """Remove the files and folders changed longest ago, above a number of them.

    Args:
        kept: one of them, which stays.
    """
    others: list[tuple[float, Path]] = []
    for path in paths:
        with suppress(OSError):
            if path != kept:
                others.append((path.stat().st_mtime, path))
    for _, path in sorted(others)[: max(0, len(others) - most + 1)]:
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


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
    """A context with a folder and its parents: those that were missing are removed at its end."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def try_to_write(folder: Path) -> None:
    """Test that a folder can be written to, by a temporary file: root ignores permissions.

    Raises:
        OSError: if it can't.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\n")
