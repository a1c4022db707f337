"""Words with tags: files with a word on each line (CoNLL), spans of characters in JSON, as Doccano,
Label Studio and spaCy export them, and tags as numbers, whatever their scheme; or with other
classes, such as parts of speech."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from bench.common.errors import InputError
from bench.common.messages import count
from bench.examples.labels import Labels, check_known, classes_of
from bench.examples.records import Fields, Records, Value, fields_of, quoted
from bench.examples.textfiles import TEXT, json_lines, json_values, read_lines
from minbert.data.words import CLASSES, Tags, padded

TOKENS, TAGS, DOCUMENT = "tokens", "tags", "-DOCSTART-"
"""The columns of a table of sentences; the last, if the file marks documents, numbers them."""
UNIVERSAL: Final = ".conllu"
"""The suffix of files of Universal Dependencies, of ten columns."""
_COLUMNS: Final = 10
_TAG: Final = re.compile(r"O|[BIESLU]-.+")
_ENDS: Final = {"E": "I", "L": "I", "S": "B", "U": "B"}
"""Prefixes of IOBES and BILOU, and what IOB2 has in their place."""
WORD: Final = re.compile(r"\w+|[^\w\s]")
"""Letters and digits, or another sign: the words of texts, as exported models split them."""
_LISTS: Final = ("label", "labels", "entities", "ents", "spans")
_SPAN_ENDS: Final = (("start", "end"), ("start_offset", "end_offset"))


_Tagged = tuple[list[str], list[str], int]
"""The words of a text, their tags as IOB2, and how many spans end within a word."""


def has_words(path: Path) -> bool:
    """Whether the first line of a file, comments aside, ends with a tag, as no header does."""
    lines = (line.split() for line in read_lines(path) if line.strip())
    first = next((fields for fields in lines if fields[0] not in ("#", DOCUMENT)), [])
    return len(first) > 1 and _TAG.fullmatch(first[-1]) is not None


def conll(path: Path) -> Records:
    """A table of the sentences of a file with a word on each line: first the word, last its tag,
    between tabs or spaces; in `.conllu` the word is second and its part of speech fourth. Blank
    lines end sentences, and -DOCSTART- begins a document. InputError for a file that can't be read;
    rows raise it for a line that has another form."""
    has_documents, is_whole, is_empty = False, True, True
    for line in read_lines(path):
        is_empty &= line.isspace()
        has_documents |= line.startswith(DOCUMENT)
        is_whole = line.endswith("\n")
    if is_empty:
        raise InputError(f"{path}: is empty; a word and its tag are expected on each line")
    notes = () if is_whole else (f"{path.name}: ends without a line break; is it complete?",)
    columns = (TOKENS, TAGS, DOCUMENT) if has_documents else (TOKENS, TAGS)

    def read(wanted: Sequence[str]) -> Iterator[tuple[int, Fields]]:
        for number, row in _sentences(path):
            by_name: dict[str, Value] = dict(zip((TOKENS, TAGS, DOCUMENT), row, strict=True))
            yield number, tuple(by_name[name] for name in wanted)

    return Records(str(path), columns, read, notes=notes)


def _sentences(path: Path) -> Iterator[tuple[int, tuple[list[str], list[str], str]]]:
    """The words, tags and document of each sentence, with its first line."""
    words: list[str] = []
    tags: list[str] = []
    begin = first = width = document = 0
    mark: str | None = None
    suffix = path.suffix.lower()
    has_scheme = suffix in (".txt", ".tsv")  # which may be other files
    for number, line in enumerate(read_lines(path), start=1):
        text = line.strip("\r\n ")
        if not text.strip() or text.startswith(DOCUMENT):
            if words:
                yield begin, (words, tags, str(document))
                words, tags = [], []
            document += text.startswith(DOCUMENT)
            continue
        if not width:
            mark = "\t" if "\t" in text else None
        fields = text.split(mark) if mark else re.split("[ \t]+", text)
        if suffix == UNIVERSAL and len(fields) == _COLUMNS:
            if not fields[0].isdigit():
                continue  # a word that the next lines split, or one that the text has not
            fields = [fields[1], fields[3]]
        is_tag = len(fields) > 1 and _TAG.fullmatch(fields[-1]) is not None
        if text.startswith("#") and not (is_tag and width in (0, len(fields))):
            continue  # a comment
        where = f"{path}, line {number:,}"
        if width and len(fields) != width:
            raise InputError(
                f"{where}: has {len(fields)} columns, and line {first:,} has {width}; a word and "
                "its tag are expected, with the same columns on every line"
            )
        has_scheme |= not width and is_tag
        if (has_scheme or len(fields) < 2) and not is_tag:
            raise InputError(
                f"{where}: ends with {quoted(fields[-1])}, which is no tag: O, or B-, I-, E-, S-, "
                "L- or U- before a type, after a tab or spaces; files of other tags, such as parts "
                "of speech, end with .conll, .bio or .conllu"
            )
        if not fields[0].strip():
            raise InputError(f"{where}: has a tag without a word; remove the line, or add the word")
        begin, first, width = begin if words else number, first or number, len(fields)
        words.append(fields[0])
        tags.append(fields[-1])
    if words:
        yield begin, (words, tags, str(document))


def encode_tags(
    labels: Labels, names: Sequence[str], *, is_known: bool
) -> tuple[tuple[str, ...], Tags, tuple[str, ...]]:
    """Classes in the order of `minbert.data.words`, tags by their numbers, and notes on the scheme.

    Args:
        labels: lists of tags; numbers stand for `names`, which are tags in their order.
        is_known: whether other types than those in `names` are refused.

    Raises:
        InputError: for what is no tag, numbers without names, or only O.
    """
    occurring = set(labels.counts)
    has_numbers = bool(occurring) and all(map(str.isdigit, occurring))
    if has_numbers:
        if not (names := names or labels.table.class_names.get(labels.column, ())):
            raise InputError(
                f"{labels.where} has numbers; give the tags in their order: --classes O,B-…,I-…"
            )
        if wrong := {tag for tag in occurring if int(tag) >= len(names)}:
            raise InputError(f"{labels.where}: {min(wrong)} is the number of no class")
        texts = [[names[int(tag)] for tag in value or ()] for value in labels.values]
    else:
        texts = [[*(value or ())] for value in labels.values]
    prefixes, types = set[str](), dict[str, None]()
    for index, text in enumerate(texts):
        for tag in text:
            if _TAG.fullmatch(tag) is None:
                raise InputError(
                    f"{labels.place(index)} has {quoted(tag)}: O, or B-, I-, E-, S-, L- or U- "
                    "before a type is expected, as other tags have"
                )
            prefixes.add(tag[0])
            types[tag[2:]] = None
    given = [name[2:] for name in names if _TAG.fullmatch(name)]
    order = [name for name in dict.fromkeys([*given, *sorted(types)]) if name]
    if is_known and (unknown := types.keys() - {"", *given}):
        index = next(i for i, text in enumerate(texts) if any(t[2:] in unknown for t in text))
        raise InputError(
            f"{labels.place(index)} has a tag of type {quoted(min(unknown))}, which no training "
            "example has"
        )
    if not types.keys() - {""}:
        raise InputError(f"{labels.where}: every word has the tag O, so there is nothing to learn")
    scheme, rows, repaired = _as_iob2(texts, prefixes, {name: n for n, name in enumerate(order)})
    notes = [f"tags: {scheme}{'' if scheme == 'IOB2' else ', read as IOB2'}"]
    if repaired:
        begin = "1 entity begins" if repaired == 1 else f"{repaired:,} entities begin"
        notes.append(f"tags: {begin} with I- after another tag; read as B-")
    classes = ("O", *(f"{prefix}-{name}" for name in order for prefix in "BI"))
    if has_numbers and tuple(names) != classes:
        raise InputError(
            f"{labels.where} has numbers, and the classes of numbers are read as O, then B-… and "
            "I-… of each type; write the tags as names"
        )
    return classes, padded(rows), tuple(notes)


def have_scheme(labels: Labels, names: Sequence[str]) -> bool:
    """Whether tags mark entities: one that is not O has a prefix. Numbers stand for names."""
    tags = set(labels.counts)
    if all(map(str.isdigit, tags)):
        tags = {*(names or labels.table.class_names.get(labels.column, ()))}
    tags -= {"O"}
    return not tags or any(map(_TAG.fullmatch, tags))


def encode_classes(
    labels: Labels, given: Sequence[str], *, is_known: bool
) -> tuple[tuple[str, ...], Tags, tuple[str, ...]]:
    """The same of other classes of words than tags with a scheme, such as parts of speech."""
    if is_known:
        check_known(labels, given, "which no training example has")
    classes = classes_of(labels, given)
    places = {name: index for index, name in enumerate(classes)}
    if len(classes) < 2:
        raise InputError(f"{labels.where}: all words have the tag {classes[0]}; nothing to learn")
    rows = [[places[tag] for tag in value or ()] for value in labels.values]
    return classes, padded(rows).astype(CLASSES), ()


def _as_iob2(
    texts: Sequence[Sequence[str]], prefixes: set[str], places: dict[str, int]
) -> tuple[str, list[list[int]], int]:
    """The scheme of tags, tags of IOB2 as numbers, and how many were against the scheme."""
    rows, begun = [], Counter[str]()
    for text in texts:
        row: list[int] = []
        before = ""
        for tag in text:
            prefix, name = _ENDS.get(tag[0], tag[0]), tag[2:]
            follows = before[2:] == name and before[:1] not in ("", "O", "E", "L", "S", "U")
            if tag == "O":
                row.append(0)
            elif prefix == "I" and follows:
                row.append(2 * places[name] + 2)
            else:
                begun["after its type" if prefix == "B" and before[2:] == name else prefix] += 1
                row.append(2 * places[name] + 1)
            before = tag
        rows.append(row)
    if prefixes & _ENDS.keys():
        scheme = "BILOU" if prefixes & {"L", "U"} else "IOBES"
        return scheme, rows, begun["I"]
    if begun["I"] and not begun["B"]:  # B is only where an entity follows one of its type
        return "IOB1", rows, 0
    return "IOB2", rows, begun["I"]


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
            begin, end = next((value[a], value[b]) for a, b in _SPAN_ENDS if a in value)
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
