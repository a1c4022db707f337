"""Writing the report's files: each whole or not at all, and nothing of another's touched."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bench.errors import InputError
from bench.report.figures import MARK

_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_all(folder: Path, texts: Mapping[str, str], figures: Mapping[str, str]) -> None:
    """Write the figures, then the pages in their order, then drop figures of an older report.

    Raises:
        InputError: if the folder can't be written.
        OSError: if the disk is full.
    """
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for name, text in figures.items():
            _write(folder / "figures" / name, text)
        for name, text in texts.items():
            _write(folder / name, text)
        for path in (folder / "figures").glob("*.svg"):
            if path.name not in figures and MARK in path.read_text("utf-8", "replace")[:2000]:
                path.unlink()
    except OSError as error:
        if error.errno in _FULL:
            raise
        why = error.strerror or str(error)
        raise InputError(
            f"{folder}: can't write the report there ({why}); give another folder with --reports"
        ) from error


def _write(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
