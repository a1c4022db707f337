"""runs.csv, read and appended to, and the folders of its cells beside it.

A row is appended under a lock and durable on return. What a crash can leave is one torn record at
the end: readers leave it out, and the next writer cuts it off.
"""

import csv
import io
import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from filelock import FileLock, Timeout

from bench.errors import DiskFullError, InputError
from bench.files import write_atomically
from bench.schema import NAMES, SCHEMA, Row, Value, format_value, parse_value

LOCK_TIMEOUT_S: Final = 60
"""An append takes milliseconds: a lock held for longer belongs to something that hangs."""

_IDENTITY: Final = ("schema", "cell_id", "conditions_id", "attempt", "status")
_REMEMBERED: Final = 4096
_FOLDER_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")

csv.field_size_limit(2**27)  # what has been written, a long message too, can be read again


def cells_folder(path: Path) -> Path:
    """The folder of all cells of a CSV: `runs/` beside `runs.csv`."""
    return path.with_suffix("") if path.suffix else path.with_name(f"{path.name}-cells")


def cell_folder(path: Path, name: str, cell_id: str, conditions_id: str, attempt: int) -> Path:
    """The folder of one attempt at a cell.

    Raises:
        ValueError: if a part of its name could lead out of the folder of all cells.
    """
    for part in (name, cell_id, conditions_id):
        if not _FOLDER_PART.fullmatch(part):
            raise ValueError(f"{part!r} can't be part of a folder's name")
    return cells_folder(path) / f"{name}-{cell_id}-{conditions_id}-{attempt}"


def latest(rows: Iterable[Row]) -> dict[tuple[str, str], Row]:
    """The last row of each (cell_id, conditions_id)."""
    return {(str(row["cell_id"]), str(row["conditions_id"])): row for row in rows}


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"note: {text}\n")


def read_rows(path: Path, note: Callable[[str], None] = _to_stderr) -> list[Row]:
    """All rows of a CSV, in order; none where there is no such file.

    Args:
        note: takes a line about a torn record at the end, which is left out.

    Raises:
        InputError: for a file of another schema, or one with a broken row, naming its line.
    """
    reading = _Reading(path)
    reading.read_on()
    if reading.torn:
        note(f"{path}: the last line is incomplete and is left out; its cell will run again")
    return reading.rows


class Store:
    """A runs.csv to append to. Reads only what has come since it last looked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reading = _Reading(path)

    @property
    def rows(self) -> list[Row]:
        """All rows, those of other processes included.

        Raises:
            InputError: as `read_rows`.
        """
        self._reading.read_on()
        return self._reading.rows

    def next_attempt(self, cell_id: str, conditions_id: str) -> int:
        """The number of a cell's next row: one more than the highest it has."""
        ids = (cell_id, conditions_id)
        return 1 + max(
            (
                int(row["attempt"] or 0)
                for row in self.rows
                if (row["cell_id"], row["conditions_id"]) == ids
            ),
            default=0,
        )

    def append(self, row: Row) -> None:
        """Add a row; it is durable on return.

        Raises:
            ValueError: for a row that could not be read again. Nothing is written.
            DiskFullError: if it can't be written. The file is as it was before.
            InputError: as `read_rows`. Nothing is written.
        """
        line = _encode(row)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock", timeout=LOCK_TIMEOUT_S):
                self._append(line)
        except OSError as error:
            if isinstance(error, Timeout):
                reason = f"another process has held {self.path.name}.lock for {LOCK_TIMEOUT_S} s"
            else:
                reason = error.strerror or str(error)
            raise DiskFullError(f"{self.path}: can't be written ({reason})") from error

    def _append(self, line: bytes) -> None:
        if not self.path.exists() or self.path.stat().st_size == 0:
            write_atomically(self.path, _record(NAMES))
        self._reading.read_on()
        with self.path.open("r+b", buffering=0) as file:
            if self._reading.torn:
                file.truncate(self._reading.end)
            end = file.seek(0, os.SEEK_END)
            try:
                left = memoryview(line)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(end)
                raise

    def check_writable(self) -> None:
        """Try whether rows can be appended and cells have folders, and leave nothing behind.

        It tries rather than looks at permissions, which say nothing to root.

        Raises:
            InputError: if not.
        """
        folder = cells_folder(self.path)
        for path, is_kind, kind in (
            (self.path, stat.S_ISREG, "file"),
            (Path(f"{self.path}.lock"), stat.S_ISREG, "file"),
            (folder, stat.S_ISDIR, "folder"),
        ):
            with suppress(OSError):
                if not is_kind(path.stat().st_mode):
                    raise InputError(
                        f"{path}: is no {kind}; remove it, or name another place with --runs"
                    )
        try:
            with _folder_for_now(self.path.parent):
                _try_to_write(self.path.parent)
            if folder.exists():
                _try_to_write(folder)
            if self.path.exists():
                self.path.open("r+b").close()
        except OSError as error:
            raise InputError(
                f"{error.filename or self.path}: can't be written ({error.strerror}); "
                "name another place with --runs"
            ) from error


@contextmanager
def _folder_for_now(folder: Path) -> Iterator[None]:
    """Create a folder and its missing parents, and remove those again."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def _try_to_write(folder: Path) -> None:
    """Create a file and a folder in a folder, and remove them."""
    with tempfile.TemporaryDirectory(prefix=".check-", dir=folder) as made:
        Path(made, "file").write_bytes(b"\n")


def _record(fields: Iterable[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(fields)
    return text.getvalue().encode(errors="backslashreplace")


def _encode(row: Row) -> bytes:
    """A row as a record of RFC 4180, if it can be read again."""
    unknown = row.keys() - set(NAMES)
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: no such columns")
    texts = [format_value(row.get(name)) for name in NAMES]
    _parse(texts, _parsers())
    return _record(texts)


class _Parser(dict[str, Value]):
    """A column's values by their text. Few texts are many, so that most are parsed once."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def __missing__(self, text: str) -> Value:
        try:
            value = parse_value(self._name, text)
        except ValueError as error:
            raise ValueError(f"{self._name}: {error}") from None
        if text == "" and self._name in _IDENTITY:
            raise ValueError(f"{self._name} is empty")
        if self._name == "schema" and value != SCHEMA:
            raise ValueError(f"schema is {value}, and this version reads {SCHEMA}")
        if len(self) < _REMEMBERED:
            self[text] = value
        return value


_Parsers = tuple[tuple[str, _Parser], ...]


def _parsers() -> _Parsers:
    return tuple((name, _Parser(name)) for name in NAMES)


def _parse(fields: list[str], parsers: _Parsers) -> Row:
    """A row from the fields of a record.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if len(fields) != len(NAMES):
        raise ValueError(f"it has {len(fields)} fields instead of {len(NAMES)}")
    return {
        name: parsed[text] for (name, parsed), text in zip(parsers, fields, strict=True)
    }


class _Reading:
    """How far a CSV has been read: its rows up to `end`, and whether a torn record follows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self.rows: list[Row] = []
        self.end = 0
        self.torn = False
        self._lines = 0
        self._file: tuple[int, int] | None = None
        self._parsers = _parsers()

    def read_on(self) -> None:
        """Read what has come since the last time; all of it, if the file is another one.

        Raises:
            InputError: for another schema, or a broken row.
        """
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                if (found.st_dev, found.st_ino) != self._file or found.st_size < self.end:
                    self._forget()
                    self._file = (found.st_dev, found.st_ino)
                if found.st_size != self.end or self.torn:
                    self._read(file)
        except FileNotFoundError:
            self._forget()
        except OSError as error:
            raise InputError(
                f"{self.path}: can't be read ({error.strerror}); name another file with --runs"
            ) from error

    def _read(self, file: BinaryIO) -> None:
        file.seek(self.end)
        self.torn = False
        consumed = self.end
        ended = False

        def lines() -> Iterator[str]:
            nonlocal consumed, ended
            for line in file:
                if not line.endswith(b"\n"):
                    break
                consumed += len(line)
                yield line.decode()
            ended = True

        records = csv.reader(lines(), strict=True)
        start = self._lines
        try:
            for fields in records:
                self._take(fields)
                self.end, self._lines = consumed, start + records.line_num
        except ValueError as error:  # a UnicodeDecodeError, too
            raise self._broken(error) from None
        except csv.Error as error:
            if not ended or not self._is_torn(file):
                raise self._broken(error) from None
        self.torn = file.seek(0, os.SEEK_END) > self.end

    def _take(self, fields: list[str]) -> None:
        if self._lines == 0:
            self._check_header(fields)
        elif fields:
            self.rows.append(_parse(fields, self._parsers))

    def _check_header(self, fields: list[str]) -> None:
        fields = [fields[0].removeprefix("\ufeff"), *fields[1:]] if fields else fields
        if fields == list(NAMES):
            return
        missing = [name for name in NAMES if name not in fields]
        unknown = [name for name in fields if name not in NAMES]
        told = "; ".join(
            f"{what} {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
            for what, names in (("it lacks", missing), ("it also has", unknown))
            if names
        )
        raise InputError(
            f"{self.path}, line 1: these are not the columns of schema {SCHEMA} "
            f"({told or 'their order differs'}); name another file, or move this one away"
        )

    def _is_torn(self, file: BinaryIO) -> bool:
        """Whether what follows `end`, an open quote, is one record, and not a quote too many."""
        file.seek(self.end)
        after = file.read().decode(errors="replace").splitlines()[1:]
        return not any(len(fields) == len(NAMES) for fields in csv.reader(after))

    def _broken(self, error: Any) -> InputError:
        if isinstance(error, InputError):
            return error
        return InputError(
            f"{self.path}, line {self._lines + 1}: {error}; "
            "mend or remove that line, or name another file"
        )
