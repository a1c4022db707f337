"""Spans of characters, as annotation tools export them, read as words with tags: JSON of Doccano,
Label Studio and spaCy."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from bench.common.messages import count
from bench.examples.records import Fields, Records, fields_of
from bench.examples.textfiles import TEXT, json_lines, json_values
from bench.examples.words import TAGS, TOKENS

WORD: Final = re.compile(r"\w+|[^\w\s]")
"""Letters and digits, or another sign: the words of texts, as exported models split them."""
_LISTS: Final = ("label", "labels", "entities", "ents", "spans")
_ENDS: Final = (("start", "end"), ("start_offset", "end_offset"))


_Tagged = tuple[list[str], list[str], int]
"""The words of a text, their tags as IOB2, and how many spans end within a word."""


def annotated(path: Path) -> Records:
    """The table of a JSON file; where records have spans, with columns of words and their tags.
    InputError as of `json_lines`."""
    table = json_lines(path)
    first = (_annotation(record)[1] for _, record in islice(json_values(path), 1000))
    if not any(first):
        return table

    def rows() -> Iterator[tuple[int, Any, _Tagged | str]]:
        for number, record in json_values(path):
            text, spans = _annotation(record)
            yield number, record, "without spans" if spans is None else _tagged(text, spans)

    def read(wanted: Sequence[str]) -> Iterator[tuple[int, Fields]]:
        for number, record, row in rows():
            if isinstance(row, str):
                yield number, row
            else:
                known = {**record, **dict(zip((TOKENS, TAGS), row, strict=False))}
                yield number, fields_of(map(known.get, wanted))

    cut = sum(row[2] for _, _, row in rows() if not isinstance(row, str))
    note = f"{path.name}: {count(cut, 'span')} cut a word; such words count as a whole"
    return replace(
        table, columns=tuple(dict.fromkeys((TOKENS, TAGS, *table.columns))), read=read,
        notes=(*table.notes, note) if cut else table.notes,
    )  # fmt: skip


def _annotation(record: Any) -> tuple[str, Sequence[Any] | None]:
    """The text of a record and the spans of its first annotation; None: it has none."""
    match record:
        case {"data": {"text": str(text)}, "annotations": [{"result": list(results)}, *_]}:
            values = (each.get("value") for each in results if isinstance(each, dict))
            return text, [each for each in values if isinstance(each, dict) and "labels" in each]
        case {"text": str(text)} | {"data": str(text)}:
            lists = (record[name] for name in _LISTS if isinstance(record.get(name), list))
            spans = next(lists, None)
            return text, None if any(_span(each) is None for each in spans or ()) else spans
    return "", None


def _span(value: Any) -> tuple[int, int, str] | None:
    """The ends and the type that a span of JSON names; its numbers are texts."""
    try:
        if isinstance(value, list):
            begin, end, kind = value
        else:
            begin, end = next((value[a], value[b]) for a, b in _ENDS if a in value)
            kind = value["label"] if "label" in value else value["labels"][0]
        return (int(begin), int(end), kind) if isinstance(kind, str) and kind else None
    except (ValueError, TypeError, LookupError, StopIteration):
        return None


def _tagged(text: str, spans: Sequence[Any]) -> _Tagged | str:
    """The words of a text with their tags, or why its spans can't be read."""
    words = [match.span() for match in WORD.finditer(text)]
    tags, cut = ["O"] * len(words), 0
    for value in spans:
        begin, end, kind = _span(value) or (0, 0, "")
        begin, end = _in_characters(text, begin, end, value)
        inside = [at for at, (first, last) in enumerate(words) if first < end and begin < last]
        if not inside or end > len(text):
            return "with a span that is not in its text"
        if any(tags[at] != "O" for at in inside):
            return "with overlapping spans"
        cut += words[inside[0]][0] < begin or end < words[inside[-1]][1]
        for at in inside:
            tags[at] = f"{'B' if at == inside[0] else 'I'}-{kind}"
    return [text[first:last] for first, last in words], tags, cut


def _in_characters(text: str, begin: int, end: int, value: Any) -> tuple[int, int]:
    """The ends of a span in characters. Label Studio counts units of UTF-16, and gives the span's
    text, too; (0, 0) where that is another one."""
    given = value.get(TEXT) if isinstance(value, dict) else None
    if not isinstance(given, str) or text[begin:end] == given:
        return begin, end
    before = text.encode("utf-16-le")[: 2 * begin].decode("utf-16-le", "replace")
    begin, end = len(before), len(before) + len(given)
    return (begin, end) if text[begin:end] == given else (0, 0)
