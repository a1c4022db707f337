"""The CSV file that a command writes: checked before it runs, written whole or not at all."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Final

from bench.common.errors import DiskFullError, InputError
from bench.common.files import NO_SPACE, try_to_write, write_atomically

FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")
"""The start of a text that a spreadsheet would take for a formula."""


def harmless(text: str) -> str:
    """A text with a quote before it, if a spreadsheet would take it for a formula."""
    return f"'{text}" if FORMULA.match(text) else text


def check_csv(path: Path, inputs: Sequence[Path] = (), flag: str = "--csv") -> None:
    """Test that a CSV file can be written at the path of a flag, before anything runs, and is none
    of the inputs. InputError if not."""
    try:
        if path.is_dir():
            raise InputError(f"{flag}: {path} is a folder; name a file")
        if path.exists() and any(path.samefile(other) for other in inputs):
            raise InputError(f"{flag}: {path} is an input file; name another")
        try_to_write(path.parent)
    except OSError as error:
        raise csv_error(path, error, flag) from error


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as a CSV file. A field is empty if it does not apply or was not measured.
    InputError if it can't be written there. DiskFullError if there is no space left."""
    text = StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        values = (row[name] for name in columns)
        writer.writerow(harmless(v) if isinstance(v, str) else v for v in values)
    try:
        write_atomically(path, text.getvalue().encode(errors="backslashreplace"))
    except OSError as error:
        raise csv_error(path, error) from error


def csv_error(path: Path, error: OSError, flag: str = "--csv") -> InputError | DiskFullError:
    if error.errno in NO_SPACE:
        return DiskFullError(f"{flag}: {path}: no space left for it")
    return InputError(
        f"{flag}: {path} can't be written ({error.strerror}); name a file in a folder that is there"
    )
