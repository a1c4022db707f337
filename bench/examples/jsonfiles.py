"""Tables in JSON: an object on each line, or an array of objects."""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

from bench.common.errors import InputError
from bench.examples.decoding import encoding_note, first_line, lines_of, pieces_of
from bench.examples.table import Row, Table, Value

JSON: Final = (".jsonl", ".ndjson", ".json")

_LARGEST_ARRAY: Final = 2**30
"""Characters of a JSON array, which is read whole."""
_SEEN: Final = 1000
"""Records whose keys are the columns of a JSON file."""
_SPACE: Final = re.compile(r"[ \t\r\n]*")


def json_records(path: Path) -> Table:
    """A table of JSON objects, one on each line or in one array; its columns are their keys.

    Raises:
        InputError: a file without objects, or one that can't be read.
    """
    start = ""
    for line in pieces_of(path):
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

    return Table(str(path), tuple(columns), read, unit, notes=encoding_note(path))


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


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    decode = _decoder().decode
    for number, line in enumerate(lines_of(path), start=1):
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
    text = "".join(pieces_of(path, _LARGEST_ARRAY))
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
        raise InputError(f"{path}, record {number}: is not JSON ({first_line(error)})") from error
    if text[place + 1 :].strip():
        raise InputError(f"{path}: goes on after the end of its JSON array")


def _after_space(text: str, place: int) -> int:
    return cast(re.Match[str], _SPACE.match(text, place)).end()


def _decoder() -> json.JSONDecoder:
    """A decoder that keeps numbers as they are written; NaN, which pandas writes, is missing."""
    return json.JSONDecoder(
        parse_float=str,
        parse_int=str,
        parse_constant=lambda name: None if name == "NaN" else name,
    )
