"""Tasks from a folder in the format of the CS 224N default final project (`--data DIR`).

Tab-separated UTF-8, quoted as by Python's csv, one example a line, with a header: a row number,
`id`, `sentence` or `sentence1` and `sentence2`, and a label.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from minbert.errors import InputError
from minbert.files import check_size, is_file, is_folder
from minbert.tasks.base import Examples, Task
from minbert.tasks.splitting import DEV, TRAIN

_LARGEST_FILE: Final = 2**28
"""Bytes; the largest of these sets, with 400,000 pairs of questions, has 60 MB."""
_SHOWN: Final = 5
"""Rows that can't be read and are told one by one; the others are counted."""


@dataclass(frozen=True)
class _Format:
    """Columns of a file; `highest` is the largest label, and the smallest is 0."""

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
    """Train and dev of one of `TASKS`, and what could not be read.

    Raises:
        InputError: no such folder, a file that is missing or of another kind.
    """
    if not is_folder(folder):
        raise InputError(f"--data {folder}: is no folder")
    missing = [name for name in task.files if not is_file(folder / name)]
    if missing:
        raise InputError(f"--data {folder}: task {task.name} needs {' and '.join(missing)} there")
    examples, problems = {}, []
    for side, name in zip((TRAIN, DEV), task.files, strict=True):
        examples[side], found = _read(folder / name, _FORMATS[task.name], bool(task.classes))
        problems += found
    return examples, problems


def _read(path: Path, form: _Format, classes: bool) -> tuple[Examples, list[str]]:
    """The examples in a file, and a line on each of the first rows that are none."""
    header, *rows = _lines(path)
    columns = _fields(header)
    wanted = (*form.texts, form.label)
    unclear = [name for name in wanted if name not in columns]
    unclear = unclear or [name for name in wanted if columns.count(name) > 1]
    if unclear:
        what = "several columns" if unclear[0] in columns else "no column"
        raise InputError(
            f"{path}: its first line has {what} {' or '.join(unclear)}; a header with "
            f"{', '.join(wanted)}, separated by tabs, is expected, not {header[:60]!r:.70}"
        )
    texts: list[tuple[str, ...]] = []
    labels: list[float] = []
    problems: list[str] = []
    broken = 0
    for number, line in enumerate(rows, start=2):
        if not line.strip():
            continue
        try:
            text, label = _row(_fields(line), columns, form, classes)
        except ValueError as error:
            broken += 1
            if broken <= _SHOWN:
                problems.append(f"{path.name}, line {number}: {error}; left out")
        else:
            texts.append(text)
            labels.append(label)
    if broken >= len(texts):
        first = f", first {problems[0].removesuffix('; left out')}" if problems else ""
        total = broken + len(texts)
        raise InputError(f"{path}: {broken} of its {total} rows can't be read{first}")
    if broken > _SHOWN:
        problems.append(f"{path.name}: {broken} rows in all can't be read and are left out")
    a, *b = zip(*texts, strict=True)
    numbers = np.array(labels, dtype=np.float64)
    given = numbers.astype(np.int64) if classes else numbers
    return Examples(a, b[0] if b else None, given), problems


def _lines(path: Path) -> list[str]:
    """A text file's lines. Bytes that aren't UTF-8 become surrogates, which `_row` refuses."""
    check_size(path, _LARGEST_FILE)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from error
    if b"\0" in content:
        raise InputError(f"{path}: is no text file in UTF-8")
    text = content.decode("utf-8-sig", errors="surrogateescape")
    return text.replace("\r\n", "\n").split("\n")


_LONGEST_LINE: Final = 2**17
"""Characters; the csv library's own limit is one for the whole process, and others change it."""


def _fields(line: str) -> list[str]:
    """The fields of one line: parsed alone, so that a stray quote can't swallow the next lines."""
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
        ValueError: saying what is wrong with it.
    """
    if len(fields) != len(columns):
        raise ValueError(f"has {len(fields)} fields, and the header {len(columns)}")
    row = dict(zip(columns, fields, strict=True))
    texts = tuple(row[name].strip() for name in form.texts)
    for name, text in zip(form.texts, texts, strict=True):
        if not text:
            raise ValueError(f"{name} is empty")
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise ValueError(f"{name} is not UTF-8")
    return texts, _label(row[form.label], form, classes)


def _label(text: str, form: _Format, classes: bool) -> float:
    try:
        label = float(text)
    except ValueError:
        label = math.nan
    if not 0 <= label <= form.highest or (classes and not label.is_integer()):
        kind = "a class" if classes else "a number"
        raise ValueError(f"{form.label} is {text[:20]!r}, not {kind} from 0 to {form.highest}")
    return label
