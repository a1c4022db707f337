"""Writing the report's files: each one atomically, without touching files of others."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from bench.common.errors import DiskFullError, InputError
from bench.common.files import NO_SPACE, write_atomically
from bench.report.drawing import MARK

FIGURES: Final = "figures"
"""The folder of a report's figures."""


def write_all(
    folder: Path, pages: Mapping[str, str], figures: Mapping[str, str], place: str = FIGURES
) -> None:
    """Write the figures, then the pages in their order, then delete figures of an older report.

    Args:
        place: the folder of the figures, inside that of the pages.

    Raises:
        InputError: if the folder can't be written.
        DiskFullError: if there is no space left.
    """
    figures_folder = folder / place
    try:
        figures_folder.mkdir(parents=True, exist_ok=True)
        for name, text in figures.items():
            write_atomically(figures_folder / name, text.encode())
        for name, text in pages.items():
            write_atomically(folder / name, text.encode())
        for path in sorted(figures_folder.glob("*.svg")):
            with suppress(FileNotFoundError):  # another process may be rendering, too
                if path.name not in figures and path.is_file() and MARK in _start(path):
                    path.unlink()
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFullError(f"{folder}: no space left for the report") from error
        raise InputError(
            f"{folder}: the report can't be written there ({error.strerror or error}); "
            "name another folder with --reports"
        ) from error


def _start(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(2000).decode(errors="replace")
