"""Tables in text files: CSV, TSV and JSON, also compressed by gzip.

UTF-8 with or without a byte order mark, or UTF-16 or UTF-32 with one. Fields are quoted as in
RFC 4180, so they may contain line breaks.
"""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from bench.common.errors import InputError
from bench.examples.table import Row, Table, Value, quoted

DELIMITERS: Final = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}
JSON: Final = (".jsonl", ".ndjson", ".json")
GZIP: Final = ".gz"

_LONGEST: Final = 2**20
"""Characters of a line, and of a field; an encoder reads the first few thousand of them."""
_LARGEST_ARRAY: Final = 2**30
"""Bytes of a JSON array, which is read whole."""
_CHUNK: Final = 2**20
_SEEN: Final = 1000
"""Records whose keys are the columns of a JSON file."""
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NAMES: Final = {"\t": "a tab", ",": "`,`", ";": "`;`", "|": "`|`"}
_BROKEN_GZIP: Final = (EOFError, zlib.error, gzip.BadGzipFile)


def delimited(path: Path, suffix: str) -> Table:
    """A table of fields between delimiters, with a header.

    The delimiter is the one of the suffix, unless the header then is one column and another
    delimiter gives more.

    Raises:
        InputError: a file without a header, or one that can't be read.
    """
    header = next((line for line in _lines(path) if line.strip()), None)
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

    return Table(str(path), tuple(columns), read, notes=(*_encoding_note(path), *notes))


def json_records(path: Path) -> Table:
    """A table of JSON objects, one on each line or in one array; its columns are their keys.

    Raises:
        InputError: a file without objects, or one that can't be read.
    """
    start = ""
    for line in _pieces(path):
        start = line.lstrip()
        if start:
            break
    if not start:
        raise InputError(f"{path}: is empty; JSON objects are expected, one on each line")
    is_array = start.startswith("[")
    records = _array if is_array else _json_lines
    columns: dict[str, None] = {}
    for _, record in islice(records(path), _SEEN):
        if isinstance(record, dict):
            columns.update(dict.fromkeys(record))
    if not columns:
        raise InputError(f'{path}: holds no JSON objects with keys, such as {{"text": …}}')
    unit = "record" if is_array else "line"

    def read(wanted: Sequence[str]) -> Iterator[Row]:
        for number, record in records(path):
            if isinstance(record, str):
                yield number, record
                continue
            try:
                yield number, tuple(_value(record.get(name)) for name in wanted)
            except TypeError as error:
                raise InputError(f"{path}, {unit} {number}: a field of {error}") from error

    return Table(str(path), tuple(columns), read, unit, notes=_encoding_note(path))


def _value(value: object) -> Value:
    """A value of JSON whose numbers are texts already."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        values = [_value(each) for each in value]
        if not any(isinstance(each, list) for each in values):
            return [each for each in values if isinstance(each, str)]
    raise TypeError("nested objects is no text, number or list of them")


def _fields(line: str, delimiter: str) -> list[str]:
    """The fields of a header, as far as it is legal."""
    with _long_fields():
        return next(csv.reader([line], delimiter=delimiter), [])


def _records(path: Path, delimiter: str, quoting: Any) -> Iterator[tuple[int, list[str]]]:
    """The first line and the fields of every record that is not blank, the header too."""
    start = 1
    with _long_fields():
        reader = csv.reader(_lines(path), delimiter=delimiter, quoting=quoting, strict=True)
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
            f"{_LONGEST:,} characters); close it, or double the quotes that are part of the text"
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
        reader = csv.reader(_lines(path), delimiter="\t", strict=True)
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
    limit = csv.field_size_limit(_LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    decode = _decoder().decode
    for number, line in enumerate(_lines(path), start=1):
        if line.isspace():
            continue
        try:
            record = decode(line.strip())
        except (ValueError, RecursionError):
            yield number, "no valid JSON"
        else:
            yield number, record if isinstance(record, dict) else "no JSON object"


def _array(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The objects of an array, decoded one by one."""
    text = "".join(_pieces(path, _LARGEST_ARRAY))
    decode, number, place = _decoder().raw_decode, 0, _after_space(text, text.index("[") + 1)
    try:
        while not text.startswith("]", place):
            if number:
                if not text.startswith(",", place):
                    raise ValueError("a comma or the end of the array is missing")
                place = _after_space(text, place + 1)
            number += 1
            record, place = decode(text, place)
            yield number, record if isinstance(record, dict) else "no JSON object"
            place = _after_space(text, place)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}, record {number}: is not JSON ({_first(error)})") from error
    if text[place + 1 :].strip():
        raise InputError(f"{path}: goes on after the end of its JSON array")


_SPACE: Final = re.compile(r"[ \t\r\n]*")


def _after_space(text: str, place: int) -> int:
    return cast(re.Match[str], _SPACE.match(text, place)).end()


def _decoder() -> json.JSONDecoder:
    """A decoder that keeps numbers as they are written; NaN, which pandas writes, is missing."""
    return json.JSONDecoder(
        parse_float=str,
        parse_int=str,
        parse_constant=lambda name: None if name == "NaN" else name,
    )


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, each with its end.

    Raises:
        InputError: a file that can't be read or is no text, or a line that is too long.
    """
    number = 0
    with _opened(path) as (file, _):
        while line := file.readline(_LONGEST + 1):
            number += 1
            if len(line) > _LONGEST:
                raise InputError(
                    f"{path}, line {number}: has over {_LONGEST:,} characters, so this is no "
                    "table of texts; is it another kind of file?"
                )
            if "\0" in line:
                raise InputError(
                    f"{path}, line {number}: has a NUL byte, so this is no text file, or it is "
                    "UTF-16 without a byte order mark; save it as UTF-8"
                )
            yield line


def _pieces(path: Path, largest: int | None = None) -> Iterator[str]:
    """A text file in pieces of any length.

    Raises:
        InputError: as `_lines`; or a file that is larger.
    """
    size = 0
    with _opened(path) as (file, _):
        while piece := file.read(_CHUNK):
            size += len(piece)
            if "\0" in piece:
                raise InputError(f"{path}: has a NUL byte, so this is no JSON; save it as UTF-8")
            if largest and size > largest:
                raise InputError(
                    f"{path}: its array has over {largest:,} characters; write JSON lines, an "
                    "object on each line, which need less memory"
                )
            yield piece


@contextmanager
def _opened(path: Path) -> Iterator[tuple[io.TextIOWrapper, str]]:
    """A text file, decoded, and the name of its encoding.

    Raises:
        InputError: if it can't be opened, or what is read in the context can't be decoded.
    """
    try:
        with _binary(path) as file:
            encoding = _encoding(file)
            with io.TextIOWrapper(file, encoding, newline="") as text:
                yield text, encoding
    except UnicodeError as error:
        raise InputError(_wrong_byte(path)) from error
    except _BROKEN_GZIP as error:
        raise InputError(f"{path}: is no whole gzip file ({_first(error)})") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or _first(error)})") from error


def _binary(path: Path) -> BinaryIO:
    if path.suffix.lower() == GZIP:
        return cast(BinaryIO, gzip.open(path))
    return path.open("rb")


def _encoding(file: BinaryIO) -> str:
    """The encoding by the mark at the start of a file, whose position stays."""
    start = file.read(4)
    file.seek(0)
    return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")


def _encoding_note(path: Path) -> tuple[str, ...]:
    with _opened(path) as (_, encoding):
        is_usual = encoding.startswith("utf-8")
        return () if is_usual else (f"{path.name}: is {encoding.upper()}, by its byte order mark",)


def _wrong_byte(path: Path) -> str:
    """A message with the first byte that is no text."""
    line = 1
    with _binary(path) as file:
        encoding = _encoding(file)
        decode = codecs.getincrementaldecoder(encoding)().decode
        try:
            while chunk := file.read(_CHUNK):
                decode(chunk)
                line += chunk.count(b"\n")
            decode(b"", True)
        except UnicodeDecodeError as error:
            if encoding.startswith("utf-8"):
                start = error.start
                line += error.object[:start].count(b"\n")
                wrong = f"byte 0x{error.object[start]:02X}" if error.object else "its last byte"
                return f"{path}, line {line}: {wrong} is not UTF-8; save the file as UTF-8"
        except UnicodeError:
            pass
    return f"{path}: is not {encoding.upper()} as its byte order mark says; save it as UTF-8"


def _first(error: BaseException) -> str:
    """The first line of an error's text."""
    return quoted(str(error).partition("\n")[0] or type(error).__name__)[1:-1]
