"""Tables in files of fields between delimiters, with a header; fields are quoted as in RFC 4180."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

from bench.common.errors import InputError
from bench.examples.decoding import LONGEST, encoding_note, lines_of
from bench.examples.table import Row, Table

DELIMITERS: Final = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}

_NAMES: Final = {"\t": "a tab", ",": "`,`", ";": "`;`", "|": "`|`"}


def delimited(path: Path, suffix: str) -> Table:
    """A table of fields between delimiters, with a header.

    The delimiter is the one of the suffix, unless the header then is one column and another
    delimiter gives more.

    Raises:
        InputError: a file without a header, or one that can't be read.
    """
    header = next((line for line in lines_of(path) if line.strip()), None)
    if header is None:
        raise InputError(f"{path}: is empty; a header and examples are expected")
    delimiter = DELIMITERS[suffix]
    notes = []
    if len(_fields(header, delimiter)) == 1:
        usual = delimiter
        delimiter = max(
            (usual, *(other for other in ",;\t|" if other != usual)),
            key=lambda each: len(_fields(header, each)),
        )
        if delimiter != usual:
            notes.append(f"{path.name}: fields are separated by {_NAMES[delimiter]}")
    quoting = csv.QUOTE_MINIMAL
    if delimiter == "\t" and (line := _unquoted(path)):
        quoting = csv.QUOTE_NONE
        notes.append(
            f"{path.name}: quotes are part of the texts, as in line {line} they don't enclose a "
            "whole field"
        )
    columns = [name.strip() for name in next(_records(path, delimiter, quoting))[1]]

    def read(wanted: Sequence[str]) -> Iterator[Row]:
        places = [columns.index(name) for name in wanted]
        width = len(columns)
        for line, fields in islice(_records(path, delimiter, quoting), 1, None):
            if len(fields) == width:
                yield line, tuple(fields[place] for place in places)
            else:
                yield line, "another number of fields than the header"

    return Table(str(path), tuple(columns), read, notes=(*encoding_note(path), *notes))


def _fields(line: str, delimiter: str) -> list[str]:
    """The fields of a header, as far as it is legal."""
    with _long_fields():
        return next(csv.reader([line], delimiter=delimiter), [])


def _records(path: Path, delimiter: str, quoting: Any) -> Iterator[tuple[int, list[str]]]:
    """The first line and the fields of every record that is not blank, the header too."""
    start = 1
    with _long_fields():
        reader = csv.reader(lines_of(path), delimiter=delimiter, quoting=quoting, strict=True)
        try:
            for fields in reader:
                number, start = start, reader.line_num + 1
                if len(fields) > 1 or (fields and fields[0].strip()):
                    yield number, fields
        except csv.Error as error:
            raise InputError(f"{path}, line {start}: {_reason(error)}") from error


def _reason(error: csv.Error) -> str:
    text = str(error)
    if "end of data" in text or "field limit" in text:
        return (
            "a quote that begins a field here is not closed (or the field has over "
            f"{LONGEST:,} characters); close it, or double the quotes that are part of the text"
        )
    if "expected after" in text:
        return (
            "a quoted field goes on after its closing quote; double the quotes that are part of "
            "the text"
        )
    return f"is not CSV ({text})"


def _unquoted(path: Path) -> int | None:
    """The first line at which quotes don't enclose whole fields, of a file separated by tabs.

    Many such files are written without quoting. A field with both tabs and line breaks is a sign
    of it too: it is several rows, between two quotes that have nothing to do with each other.
    """
    start = 1
    with _long_fields():
        reader = csv.reader(lines_of(path), delimiter="\t", strict=True)
        try:
            for fields in reader:
                number, start = start, reader.line_num + 1
                if start > number + 1 and any("\t" in field for field in fields):
                    return number
        except csv.Error:
            return start
    return None


@contextmanager
def _long_fields() -> Iterator[None]:
    """The csv library's limit, which is global, is that of this module meanwhile."""
    limit = csv.field_size_limit(LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
