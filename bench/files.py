"""Files that are there whole or not at all, whenever the machine stops."""

import errno
import os
from contextlib import suppress
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
