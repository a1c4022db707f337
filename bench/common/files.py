"""Files of results: read without waiting or following links, and written whole or not at all."""

import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from minbert.errors import InputError, shown
from minbert.files import open_regular
from minbert.registry import read_tables as read_tables

NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk, or a used-up quota."""
_NO_FOLDER_SYNC: Final = (errno.EINVAL, errno.ENOTSUP)
"""Error numbers of file systems without fsync of folders."""
LARGEST: Final = 2**26
"""Most bytes of a file beside runs.csv; outcomes of 10,000 cells of 5,000 examples take three
quarters of it."""
LARGEST_TENSORS: Final = 2**31
"""Most bytes of a file with outputs of models; a million examples of 500 classes take as much."""
LARGEST_WEIGHTS: Final = 2**36
"""Most bytes of any file of a cell."""
_NAME: Final = re.compile(r"\w[\w.+ -]{0,199}")


def read_file(path: Path, largest: int = LARGEST) -> bytes:
    """The content of a file of results, which may be anybody's. OSError if it can't be read, or is
    a link, a pipe, a device or too large."""
    with open_regular(path, largest, follow=False) as file:
        return file.read(largest)


def exists(path: Path) -> bool:
    """Whether anything is at a path. OSError where the system can't say: pathlib's own `exists`
    answers no then, from Python 3.14 on, and what is taken for missing gets written anew."""
    with suppress(FileNotFoundError, NotADirectoryError):
        path.stat()
        return True
    return False


def text_or_empty(path: Path) -> str:
    try:
        return read_file(path).decode(errors="replace")
    except OSError:
        return ""


@contextmanager
def open_tensors(path: Path, largest: int = LARGEST_TENSORS) -> Iterator[Any]:
    """A safetensors file of results, open for reading as numpy arrays. Errors are those of
    `read_file` and of safetensors."""
    from safetensors import safe_open

    open_regular(path, largest, follow=False).close()
    with safe_open(path, framework="numpy") as file:
        yield file


def no_link(path: Path) -> Path:
    """A path of results as it is. InputError for a link, which may lead anywhere."""
    if os.path.islink(path):  # noqa: PTH114 (that of pathlib raises for an impossible path)
        raise InputError(
            f"{path}: is a link, which is not followed; put what it points to in its place"
        )
    return path


def below(folder: Path, *names: str) -> Path:
    """The path of names, which may be anybody's, one in another below a folder. InputError for what
    is no plain name, or a link: the path does not lead out of the folder."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise InputError(f"{shown(name)} can't be the name of a file or folder in {folder}")
        folder = no_link(folder / name)
    return folder


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, replacing an earlier file; durable on return. OSError if it can't be
    written. An earlier file at `path` is then unchanged."""
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which replaces `path` and is durable at the end of the context. After an
    error an earlier file at `path` is unchanged. It keeps its permissions, and a link is replaced,
    not followed. A writer that is killed leaves a file `.NAME.tmp`, which the next writer of `path`
    reuses. OSError if it can't be written."""
    temporary, file = _unfinished(path)
    with file:
        try:
            with suppress(FileNotFoundError):
                earlier = path.lstat().st_mode
                if stat.S_ISREG(earlier):
                    os.fchmod(file.fileno(), earlier & 0o777)
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    sync(path.parent)


def _unfinished(path: Path) -> tuple[Path, BinaryIO]:
    """An empty temporary file in the folder of `path`, and its own path. A lock distinguishes the
    file of a killed writer from one that another process is writing. In the second case, and where
    its name leads to another file, this file has the process id in its name."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
    usual = path.with_name(f".{path.name}.tmp")
    with suppress(OSError):
        file = os.fdopen(os.open(usual, flags | os.O_NONBLOCK, 0o666), "wb")
        if _is_own(file, usual):
            file.truncate(0)
            return usual, file
        file.close()
    own = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    own.unlink(missing_ok=True)
    return own, os.fdopen(os.open(own, flags | os.O_EXCL, 0o666), "wb")


def _is_own(file: BinaryIO, path: Path) -> bool:
    """Lock an open file; false if another process has locked it, if it is no longer at `path`,
    since another writer has renamed it, or if it has another name too."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(file.fileno())
        is_one = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
        return is_one and os.path.samestat(status, path.lstat())
    except OSError:
        return False


def umask() -> int:
    """The permissions that this process does not give to new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def remove_unfinished(folder: Path) -> None:
    """Remove temporary files of killed writers, safetensors too; no process may be writing."""
    with suppress(OSError):
        for pattern in (".*.tmp", ".tmp*"):
            for path in folder.rglob(pattern):
                path.unlink(missing_ok=True)


def remove_oldest(paths: Iterable[Path], most: int, kept: Path) -> None:
    """Remove the files and folders changed longest ago, above a number of them, but not `kept`."""
    others: list[tuple[float, Path]] = []
    for path in paths:
        with suppress(OSError):
            if path != kept:
                others.append((path.stat().st_mtime, path))
    for _, path in sorted(others)[: max(0, len(others) - most + 1)]:
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def sync_tree(folder: Path) -> None:
    """Make the files of a folder durable, and those of its folders; links are not followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                sync_tree(Path(entry))
            elif entry.is_file(follow_symlinks=False):
                sync(Path(entry))
    sync(folder)


def sync(path: Path) -> None:
    """Make a file durable, or new and renamed entries of a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def make_private(folder: Path) -> bool:
    """Make a folder for this user alone, unless it is there; whether it is one: no link, and closed
    to others. OSError if it can't be made."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return is_own and not status.st_mode & 0o077


def try_to_make(folder: Path) -> None:
    """Raise OSError for a folder that can't be made, or can't hold a new file; what was missing of
    it and its parents is removed again."""
    made: list[Path] = []
    try:
        for path in (*reversed(folder.parents), folder):
            with suppress(FileExistsError):
                path.mkdir()
                made.append(path)
        try_to_write(folder)
    finally:
        for path in reversed(made):
            with suppress(OSError):
                path.rmdir()


def try_to_write(folder: Path) -> None:
    """Raise OSError for a folder that can't hold a new file: root ignores permissions."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\n")
