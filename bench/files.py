"""Files that are there whole or not at all, whenever the machine stops."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_NO_FOLDER_SYNC: Final = (errno.EINVAL, errno.ENOTSUP)
"""What filesystems answer that have no fsync of folders."""


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path`, replacing what is there; durable on return.

    Raises:
        OSError: and then what was at `path` before is still there, and nothing else.
    """
    path = Path(os.path.realpath(path))
    written = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with written.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        written.replace(path)
    except BaseException:
        with suppress(OSError):
            written.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


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
    """Create a file and a folder in a folder, and remove them: permissions say nothing to root.

    Raises:
        OSError: if that can't be done.
    """
    with tempfile.TemporaryDirectory(prefix=".check-", dir=folder) as made:
        Path(made, "file").write_bytes(b"\n")
