"""Tasks from a folder in the format of the CS 224N default final project (`--data DIR`).

Tab-separated UTF-8, quoted as by Python's csv, one example a line, with a header: a row number,
`id`, `sentence` or `sentence1` and `sentence2`, and a label. A broken row, or one without a label,
is left out; a wrong label is refused.
"""

import csv
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from minbert.data.tasks.base import Examples, Task
from minbert.data.tasks.splitting import DEV, TRAIN
from minbert.errors import InputError
from minbert.files import is_file, is_folder, read_bytes

_LARGEST_FILE: Final = 2**28
"""Bytes; the largest of these sets, with 400,000 pairs of questions, has 60 MB."""
_LONGEST_LINE: Final = 2**17
"""Characters; the csv library's own limit is global, and other code may change it."""
_SHOWN: Final = 5
"""Rows left out that are reported one by one; the others are counted."""


@dataclass(frozen=True)
class _Format:
    """Columns of a file; labels go from 0 to `highest`."""

    texts: tuple[str, ...]
    label: str
    highest: int


_FORMATS: Final = {
    "sst": _Format(("sentence",), "sentiment", 4),
    "sts": _Format(("sentence1", "sentence2"), "similarity", 5),
    "quora": _Format(("sentence1", "sentence2"), "is_duplicate", 1),
}

TASKS: Final = {
    task.name: task
    for task in (
        Task(
            "sst",
            "sentences of film reviews: sentiment in 5 classes",
            ("very negative", "negative", "neutral", "positive", "very positive"),
            ("ids-sst-train.csv", "ids-sst-dev.csv"),
            ("movies and sst share their sentences: neither is evidence beside the other",),
        ),
        Task(
            "sts",
            "pairs of sentences: how alike they are, 0 to 5",
            files=("sts-train.csv", "sts-dev.csv"),
        ),
        Task(
            "quora",
            "pairs of questions: whether they ask the same",
            ("different", "duplicate"),
            ("quora-train.csv", "quora-dev.csv"),
            (
                "with 16,214 rows quora-train.csv is a split of the course's dev file alone, so "
                "the accuracy is not the paper's: call it quora (16k train)",
                "all-MiniLM-L6-v2 saw Quora's duplicate questions in its own training, which "
                "flatters it",
            ),
        ),
    )
}


def load(task: Task, folder: Path) -> tuple[dict[str, Examples], list[str]]:
    """Train and dev of one of `TASKS`, and lines on rows that were left out.

    Raises:
        InputError: no such folder, a file that is missing or of another kind, a wrong label.
    """
    if not is_folder(folder):
        raise InputError(f"--data {folder}: is no folder")
    missing = [name for name in task.files if not is_file(folder / name)]
    if missing:
        raise InputError(f"--data {folder}: task {task.name} needs {' and '.join(missing)} there")
    examples, problems = {}, []
    for side, name in zip((TRAIN, DEV), task.files, strict=True):
        examples[side], notes = _read(folder / name, _FORMATS[task.name], bool(task.classes))
        problems += notes
    return examples, problems


def _read(path: Path, form: _Format, classes: bool) -> tuple[Examples, list[str]]:
    """The examples in a file, and lines on the rows that are left out."""
    header, *lines = _lines(path)
    columns, expected = _fields(header), (*form.texts, form.label)
    if unclear := [name for name in expected if columns.count(name) != 1]:
        raise InputError(
            f"{path}: its first line does not have {' and '.join(unclear)} once; a header with "
            f"{', '.join(expected)}, separated by tabs, is expected, not {header[:60]!r:.70}"
        )
    texts: list[tuple[str, ...]] = []
    labels: list[float] = []
    left_out: list[str] = []
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        try:
            row_texts, label = _row(_fields(line), columns, form, classes)
        except InputError as error:
            raise InputError(
                f"{path}, line {number}: {error}; correct it, or empty the field to leave the "
                "example out"
            ) from error
        except ValueError as error:
            left_out.append(f"{path.name}, line {number}: {error}")
        else:
            texts.append(row_texts)
            labels.append(label)
    if len(left_out) >= len(texts):
        first = f", first {left_out[0]}" if left_out else ""
        total = len(texts) + len(left_out)
        raise InputError(f"{path}: {len(left_out)} of its {total} rows can't be used{first}")
    notes = [f"{problem}; left out" for problem in left_out[:_SHOWN]]
    if len(left_out) > _SHOWN:
        notes.append(f"{path.name}: {len(left_out)} rows in all are left out")
    a, *b = zip(*texts, strict=True)
    return Examples(a, b[0] if b else None, np.array(labels, np.int64 if classes else None)), notes


def _lines(path: Path) -> list[str]:
    """A text file's lines. Bytes that aren't UTF-8 become surrogates, which `_row` refuses."""
    text = read_bytes(path, _LARGEST_FILE).decode("utf-8-sig", errors="surrogateescape")
    if "\0" in text:
        raise InputError(f"{path}: is no text file in UTF-8")
    return text.replace("\r\n", "\n").split("\n")


def _fields(line: str) -> list[str]:
    """The fields of one line, parsed by itself so that a stray quote can't swallow the next
    lines."""
    if len(line) > _LONGEST_LINE:
        return [line]
    try:
        return next(csv.reader([line], delimiter="\t"), [])
    except csv.Error:
        return [line]


def _row(
    fields: Sequence[str], columns: Sequence[str], form: _Format, classes: bool
) -> tuple[tuple[str, ...], float]:
    """Texts and label of a row.

    Raises:
        InputError: for a label that the task does not have.
        ValueError: for another problem with the row.
    """
    if len(fields) != len(columns):
        raise ValueError(f"has {len(fields)} fields, and the header {len(columns)}")
    row = {name: field.strip() for name, field in zip(columns, fields, strict=True)}
    label = _label(row[form.label], form, classes)
    texts = tuple(row[name] for name in form.texts)
    for name, text in zip(form.texts, texts, strict=True):
        if not text:
            raise ValueError(f"{name} is empty")
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise ValueError(f"{name} is not UTF-8")
    if label is None:
        raise ValueError(f"{form.label} is empty")
    return texts, label


_CLASS: Final = re.compile(r"[0-9]+(\.0*)?")
"""A class is written as `3` or, in a table of floats, as `3.0`."""
_SHOWN_LABEL: Final = 20
"""Characters of a wrong label that are shown."""


def _label(text: str, form: _Format, classes: bool) -> float | None:
    """The label in a field; None for an empty field.

    Texts that Python reads as numbers and other programs do not are refused, such as `1_0` and
    digits of other scripts.
    """
    if not text:
        return None
    if _CLASS.fullmatch(text) if classes else text.isascii() and "_" not in text:
        with suppress(ValueError):
            label = float(text)
            if 0 <= label <= form.highest:
                return label
    kind = "a class" if classes else "a number"
    shown = f"{text[:_SHOWN_LABEL]!r}{' and more' if len(text) > _SHOWN_LABEL else ''}"
    raise InputError(f"{form.label} is {shown}, not {kind} from 0 to {form.highest}")
