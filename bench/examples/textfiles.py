"""Tables in text files: fields between delimiters, quoted as in RFC 4180, JSON lines, and texts
alone, one on each line.

UTF-8 with or without a byte order mark, or UTF-16 with one.
"""

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, TextIO

from bench.common.errors import InputError
from bench.common.messages import one_line
from bench.examples.records import LONGEST, Fields, Records, fields_of, quoted

TEXT: Final = "text"
"""The column of a file of texts alone."""
_UNDECODED: Final = re.compile("[\udc80-\udcff]")
_DECODER: Final = json.JSONDecoder(
    parse_float=str,
    parse_int=str,
    parse_constant=lambda name: None if name == "NaN" else name,  # pandas writes NaN for missing
)

csv.field_size_limit(2**27)  # the default would refuse long documents


def delimited(path: Path) -> Records:
    """A table of fields between delimiters, with a header: tabs in `.tsv`, else commas, unless the
    header then is one column and another delimiter gives more. InputError: a file without a header,
    or one that can't be read."""
    header = next((line for line in read_lines(path) if line.strip()), "")

    def width(delimiter: str) -> int:
        return len(next(csv.reader([header], delimiter=delimiter), ()))

    notes = []
    usual = delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    if width(usual) < 2 and (delimiter := max((usual, *",;\t|"), key=width)) != usual:
        name = "a tab" if delimiter == "\t" else quoted(delimiter)
        notes.append(f"{path.name}: fields are separated by {name}")
    quoting = csv.QUOTE_MINIMAL
    if delimiter == "\t" and not _is_quoted(path):
        quoting = csv.QUOTE_NONE
        notes.append(f"{path.name}: quotes are part of the texts; they don't enclose whole fields")
    _, names = next(_records(path, delimiter, quoting), (0, []))
    columns = [name.strip() for name in names]
    if not any(columns):
        raise InputError(f"{path}: is empty; a header and examples are expected")

    def read(wanted: Sequence[str]) -> Iterator[tuple[int, Fields]]:
        places = [columns.index(name) for name in wanted]
        for line, fields in islice(_records(path, delimiter, quoting), 1, None):
            if len(fields) == len(columns):
                yield line, tuple(fields[place] for place in places)
            else:
                yield line, "with another number of fields than the header"

    return Records(str(path), tuple(columns), read, notes=tuple(notes))


def _is_quoted(path: Path) -> bool:
    """Whether quotes enclose whole fields of a file separated by tabs; many have no quoting. A
    field with both tabs and line breaks is several rows between two unrelated quotes."""
    try:
        return not any(
            "\t" in field and "\n" in field
            for _, fields in _records(path, "\t", csv.QUOTE_MINIMAL)
            for field in fields
        )
    except InputError:
        return False


def _records(path: Path, delimiter: str, quoting: Any) -> Iterator[tuple[int, list[str]]]:
    """The first line and the fields of every record that is not a blank line, the header too."""
    start, line, size = 1, "", 0

    def lines() -> Iterator[str]:
        nonlocal line, size
        for line in read_lines(path):
            size += len(line)
            if size > LONGEST:
                raise InputError(
                    f"{path}, line {start}: a row has over {LONGEST:,} characters; is a quote "
                    "before it not closed?"
                )
            yield line

    reader = csv.reader(lines(), delimiter=delimiter, quoting=quoting, strict=True)
    try:
        for fields in reader:
            number, start, size = start, reader.line_num + 1, 0
            if len(fields) > 1 or line.strip():
                yield number, fields
    except csv.Error as error:
        raise InputError(
            f"{path}, line {start}: {one_line(str(error))}; a field that begins with a quote has "
            "to end with one, and quotes inside it have to be doubled"
        ) from error


def json_lines(path: Path) -> Records:
    """A table of JSON objects, one on each line, or in one array; its columns are the keys of the
    first 1,000. InputError: a file without objects, or one that can't be read."""
    columns: dict[str, None] = {}
    for _, record in islice(json_values(path), 1000):
        if isinstance(record, dict):
            columns.update(dict.fromkeys(record))
    if not columns:
        raise InputError(
            f'{path}: no line is a JSON object such as {{"text": …}}; write one for each example'
        )

    def read(wanted: Sequence[str]) -> Iterator[tuple[int, Fields]]:
        for number, record in json_values(path):
            if isinstance(record, dict):
                yield number, fields_of(map(record.get, wanted))
            else:
                yield number, "that are no JSON objects"

    return Records(
        str(path), tuple(columns), read, unit="line" if _array(path) is None else "record"
    )


def json_values(path: Path) -> Iterator[tuple[int, Any]]:
    """The JSON on each line that is not blank, or of each element of one array, its numbers as they
    are written; None: invalid."""
    if (array := _array(path)) is not None:
        for number, value in enumerate(array, start=1):
            match value:
                case [str(text), dict(rest)]:  # as spaCy's examples for training
                    yield number, {TEXT: text, **rest}
                case _:
                    yield number, value
        return
    for number, line in enumerate(read_lines(path), start=1):
        if not line.isspace():
            try:
                record = _DECODER.decode(line.strip())
            except (ValueError, RecursionError):
                record = None
            yield number, record


def _array(path: Path) -> list[Any] | None:
    """The elements of a file that is one JSON array; None of another. InputError if broken."""
    try:
        with path.open("rb") as file:
            begin = file.read(64).lstrip(b"\xef\xbb\xbf \r\n\t")
        if path.suffix.lower() != ".json" or begin[:1] != b"[":
            return None
        array = _DECODER.decode(path.read_text(encoding="utf-8-sig").strip())
    except (OSError, UnicodeError):  # as lines it has a message
        return None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: begins as an array of JSON and is none ({one_line(str(error))[:100]}); is it "
            "complete?"
        ) from error
    return array if isinstance(array, list) else None


def plain_texts(path: Path) -> Records:
    """A table whose only column, `text`, has the lines of a text file, empty ones too."""
    return _texts(str(path), lambda: read_lines(path))


def typed_texts(stream: BinaryIO, name: str) -> Records:
    """The same of a stream in UTF-8, which can be read only once."""
    text = TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    return _texts(name, lambda: _checked(text, name))


def _texts(name: str, lines: Callable[[], Iterator[str]]) -> Records:
    def read(_: Sequence[str]) -> Iterator[tuple[int, Fields]]:
        for number, line in enumerate(lines(), start=1):
            yield number, (line.rstrip("\r\n"),)

    return Records(name, (TEXT,), read)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file. InputError with the number of one that can't be read."""
    encoding, errors = "utf-8-sig", "surrogateescape"
    try:
        with path.open("rb") as file:
            if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                encoding, errors = "utf-16", "strict"
        with path.open(encoding=encoding, errors=errors, newline="") as text:
            yield from _checked(text, str(path))
    except UnicodeError as error:
        raise InputError(
            f"{path}: is not UTF-16 as its byte order mark says; save the file as UTF-8"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: can't be read ({one_line(error.strerror or '')})") from error


def _checked(text: TextIO, name: str) -> Iterator[str]:
    number = 0
    while line := text.readline(LONGEST + 1):
        number += 1
        reason = None
        if "\0" in line:
            reason = "has a NUL byte, as in UTF-16 without a byte order mark"
        elif not line.isascii() and (wrong := _UNDECODED.search(line)):
            reason = f"byte 0x{ord(wrong[0]) - 0xDC00:02X} is not UTF-8"
        elif len(line) > LONGEST:
            reason = f"has over {LONGEST:,} characters, so this is no table of texts"
        if reason is not None:
            raise InputError(f"{name}, line {number}: {reason}; save the file as UTF-8")
        yield line
