"""Reading and writing the records of runs.csv: RFC 4180, in UTF-8."""

import csv
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final

from bench.common.csvfile import FORMULA, harmless
from bench.common.errors import InputError
from bench.common.messages import command_line
from bench.common.progress import note_to_stderr
from bench.plan.cell import Columns, Value
from bench.plan.columns import (
    BY_NAME,
    NAMES,
    REQUIRED,
    complete_row,
    format_value,
    parse_value,
    row_of,
)
from bench.plan.rows import SCHEMA, Row
from minbert.files import open_regular

_FILLED: Final = REQUIRED | {"status"}
_REMEMBERED: Final = 4096
_LONGEST_LINE: Final = 2**26

csv.field_size_limit(2**27)  # what has been written, a long message too, can be read again


def read_rows(path: Path, note: Callable[[str], None] = note_to_stderr) -> list[Row]:
    """All rows of a CSV of this schema or an older one, in order; none where there is no such file.
    InputError for a file of a newer schema, or one with a broken row, naming its line. `note` is
    called with a line about an incomplete record at the end, which is left out."""
    reading = Reading(path, older=True)
    reading.read_on()
    if reading.torn:
        note(torn_line(path))
    return reading.rows


def torn_line(path: Path) -> str:
    return f"{path}: the last line is incomplete and is left out; its cell will run again"


def record(fields: Iterable[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(fields)
    return text.getvalue().encode(errors="backslashreplace")


def encode(row: Row) -> bytes:
    """A row as a record of the file. ValueError if the record could not be read again."""
    texts = {name: format_value(row[name]) for name in NAMES}
    fields = [harmless(text) if BY_NAME[n].kind is str else text for n, text in texts.items()]
    _parsed(fields, _PARSERS)
    return record(fields)


def _short(name: str) -> str:
    return (name if name.isprintable() else ascii(name))[:40]


def _parser(name: str, oldest: int = SCHEMA) -> Callable[[str], Value]:
    """The function from a column's texts to its values, in rows of the schema `oldest` or newer; of
    frequent texts the rows share one value."""
    kind = BY_NAME[name].kind

    @lru_cache(_REMEMBERED)
    def parse(text: str) -> Value:
        if text == "" and name in _FILLED:
            raise ValueError(f"{name} is empty")
        is_quoted = kind is str and text[:1] == "'" and FORMULA.match(text)  # by `harmless`
        try:
            value = parse_value(name, text[1:] if is_quoted else text)
        except ValueError as error:
            raise ValueError(f"{name}: {str(error)[:200]}") from None
        if name == "schema" and not oldest <= int(text) <= SCHEMA:
            raise ValueError(f"schema is {value}, and this version reads {SCHEMA}")
        return value

    return parse


_PARSERS: Final = {name: _parser(name) for name in NAMES}
"""The functions for a file of this schema, by column."""


def _parsed(fields: Sequence[str], parsers: Mapping[str, Callable[[str], Value]]) -> Columns:
    if len(fields) != len(parsers):
        raise ValueError(f"it has {len(fields)} fields instead of {len(parsers)}")
    return {name: parse(text) for text, (name, parse) in zip(fields, parsers.items(), strict=True)}


class Reading:
    """The state of reading a CSV: its rows up to byte `end`, and whether a torn record follows. One
    of an `older` schema can't be appended to."""

    def __init__(self, path: Path, older: bool = False) -> None:
        self.path = path
        self._older = older
        self._forget()

    def _forget(self, file: tuple[int, int] | None = None) -> None:
        self.rows: list[Row] = []
        self.end = self._lines = 0
        self.torn = False
        self._file = file
        self._parsers: Mapping[str, Callable[[str], Value]] = _PARSERS

    def read_on(self) -> None:
        """Read the rows that were added since the last time; all rows, if the file was replaced.
        InputError for another schema, or a broken row."""
        try:
            with open_regular(self.path, sys.maxsize) as file:
                status = os.fstat(file.fileno())
                identity = status.st_dev, status.st_ino
                if identity != self._file or status.st_size < self.end:
                    self._forget(identity)
                if status.st_size != self.end or self.torn:
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
            for line in iter(lambda: file.readline(_LONGEST_LINE), b""):
                if not line.endswith(b"\n"):
                    if len(line) == _LONGEST_LINE:
                        raise ValueError("it is too long")
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
        except InputError:
            raise
        except ValueError as error:  # UnicodeDecodeError is one
            raise self._broken(error) from None
        except csv.Error as error:
            if not ended or not self._is_torn(file):
                raise self._broken(error) from None
        self.torn = file.seek(0, os.SEEK_END) > self.end
        if self.torn and not self.end and not self._is_torn_header(file):
            raise self._broken("there is no header")

    def _take(self, fields: list[str]) -> None:
        if self._lines == 0:
            self._check_header(fields)
        elif fields:
            as_row = complete_row if self._parsers is _PARSERS else row_of
            self.rows.append(as_row(_parsed(fields, self._parsers)))

    def _check_header(self, fields: list[str]) -> None:
        fields = [fields[0].removeprefix("\ufeff"), *fields[1:]] if fields else fields
        if fields == list(NAMES):
            return
        missing = [name for name in NAMES if name not in fields]
        unknown = [name for name in fields if name not in NAMES]
        # in schema 13 tf32 had another place
        moved = [[n for n in names if n != "tf32"] for names in (fields, NAMES)]
        is_older = bool(missing) or moved[0] == moved[1]
        is_older = is_older and not unknown and {"cell_id", "schema"} <= set(fields)
        if self._older and is_older and len(set(fields)) == len(fields):
            self._parsers = {name: _parser(name, oldest=1) for name in fields}
            return
        differences = "; ".join(
            f"{what} {', '.join(map(_short, names[:3]))}{', …' if len(names) > 3 else ''}"
            for what, names in (("it lacks", missing), ("it also has", unknown))
            if names
        )
        remedy = "name another file, or move this one away"
        if is_older:
            again = command_line("rebuild", "--runs", str(self.path))
            remedy = f"{again} brings it up to date"
        elif unknown and not missing:
            remedy = "if a newer version wrote it, update this project; else name another file"
        raise InputError(
            f"{self.path}, line 1: these are not the columns of schema {SCHEMA} "
            f"({differences or 'their order differs'}); {remedy}"
        )

    def _is_torn_header(self, file: BinaryIO) -> bool:
        file.seek(0)
        return record(NAMES).startswith(file.read(_LONGEST_LINE))

    def _is_torn(self, file: BinaryIO) -> bool:
        """Whether the open quote after `end` is that of a torn record, and not a stray quote."""
        file.seek(self.end)
        after = file.read().decode(errors="replace").splitlines()[1:]
        return not any(len(fields) == len(self._parsers) for fields in csv.reader(after))

    def _broken(self, why: object) -> InputError:
        return InputError(
            f"{self.path}, line {self._lines + 1}: {why}; "
            "mend or remove that line, or name another file"
        )
