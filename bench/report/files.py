"""Writing the report's files: each whole or not at all, and nothing of a stranger's touched."""

import errno
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from bench.errors import DiskFullError, InputError
from bench.files import write_atomically
from bench.report.figures import MARK

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def write_all(folder: Path, pages: Mapping[str, str], figures: Mapping[str, str]) -> None:
    """Write the figures, then the pages in their order, then drop figures of an older report.

    Raises:
        InputError: if the folder can't be written.
        DiskFullError: if there is no space left.
    """
    place = folder / "figures"
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, text in figures.items():
            write_atomically(place / name, text.encode())
        for name, text in pages.items():
            write_atomically(folder / name, text.encode())
        for path in sorted(place.glob("*.svg")):
            with suppress(FileNotFoundError):  # another grid may be rendering, too
                if path.name not in figures and path.is_file() and MARK in _start(path):
                    path.unlink()
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(f"{folder}: no space left for the report") from error
        raise InputError(
            f"{folder}: the report can't be written there ({error.strerror or error}); "
            "name another folder with --reports"
        ) from error


def _start(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(2000).decode(errors="replace")
