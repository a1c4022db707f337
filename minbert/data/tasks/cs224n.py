"""Tasks from a folder in the format of the CS 224N default final project (`--data DIR`), and the
task of several parts, which one model learns together: sentiment, paraphrase and similarity.

Tab-separated UTF-8, quoted as by Python's csv, one example a line, with a header: a row number,
`id`, `sentence` or `sentence1` and `sentence2`, and a label. A broken row, or one without a label,
is left out; a wrong label is refused.
"""

import csv
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from minbert.data.tasks.base import DECLARED, Data, Examples, Task, TaskData
from minbert.data.tasks.splitting import DEV, TRAIN
from minbert.errors import InputError
from minbert.files import is_file, is_folder, read_bytes

_LARGEST_FILE: Final = 2**28
"""Bytes; the largest of these sets, with 400,000 pairs of questions, has 60 MB."""
_LONGEST_LINE: Final = 2**17
"""Characters; the csv library's own limit is global, and other code may change it."""
_SHOWN: Final = 5  # rows left out that are reported one by one; the others are counted
_SHOWN_LABEL: Final = 20  # characters of a wrong label that are shown
_CLASS: Final = re.compile(r"[0-9]+(\.0*)?")
"""A class is written as `3` or, in a table of floats, as `3.0`."""

_Format = Mapping[str, Any]
"""A table of tasks.toml."""
_FORMATS: Final[Mapping[str, _Format]] = DECLARED["cs224n"]
TASKS: Final = {
    name: Task(name, form.get("classes", ()), form["files"], form.get("notes", ()))
    for name, form in _FORMATS.items()
}


def missing_files(task: str, folder: Path) -> list[str]:
    return [file for file in TASKS[task].files if not is_file(folder / file)]


def load(task: Task, folder: Path) -> tuple[dict[str, Examples], list[str]]:
    """Train and dev of one of `TASKS`, and lines on rows that were left out. InputError: no such
    folder, a file that is missing or of another kind, a wrong label."""
    if not is_folder(folder):
        raise InputError(f"--data {folder}: is no folder")
    if missing := missing_files(task.name, folder):
        raise InputError(f"--data {folder}: task {task.name} needs {' and '.join(missing)} there")
    examples, problems = {}, []
    for side, name in zip((TRAIN, DEV), task.files, strict=True):
        examples[side], notes = _read(folder / name, _FORMATS[task.name])
        problems += notes
    return examples, problems


def _read(path: Path, form: _Format) -> tuple[Examples, list[str]]:
    header, *lines = _lines(path)
    columns, expected = _fields(header), (*form["texts"], form["label"])
    if unclear := [name for name in expected if columns.count(name) != 1]:
        raise InputError(
            f"{path}: its first line does not have {' and '.join(unclear)} once; a header with "
            f"{', '.join(expected)}, separated by tabs, is expected, not {header[:60]!r:.70}"
        )
    texts: list[list[str]] = []
    labels: list[float] = []
    left_out: list[str] = []
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        try:
            row_texts, label = _row(_fields(line), columns, form)
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
    dtype: type[Any] = np.int64 if "classes" in form else np.float64
    return Examples(a, b[0] if b else None, np.array(labels, dtype)), notes


def _lines(path: Path) -> list[str]:
    """A text file's lines. Bytes that aren't UTF-8 become surrogates, which `_row` refuses."""
    text = read_bytes(path, _LARGEST_FILE).decode("utf-8-sig", errors="surrogateescape")
    if "\0" in text:
        raise InputError(f"{path}: is no text file in UTF-8")
    return text.replace("\r\n", "\n").split("\n")


def _fields(line: str) -> list[str]:
    """The fields of one line, parsed by itself: a stray quote can't swallow the next lines."""
    if len(line) > _LONGEST_LINE:
        return [line]
    try:
        return next(csv.reader([line], delimiter="\t"), [])
    except csv.Error:
        return [line]


def _row(fields: Sequence[str], columns: Sequence[str], form: _Format) -> tuple[list[str], float]:
    """Texts and label of a row. InputError for a label that the task does not have. ValueError for
    another problem with the row."""
    if len(fields) != len(columns):
        raise ValueError(f"has {len(fields)} fields, and the header {len(columns)}")
    row = {name: field.strip() for name, field in zip(columns, fields, strict=True)}
    label = _label(row[form["label"]], form)
    for name in form["texts"]:
        if not row[name]:
            raise ValueError(f"{name} is empty")
        if not row[name].isascii() and any("\ud800" <= char <= "\udfff" for char in row[name]):
            raise ValueError(f"{name} is not UTF-8")
    if label is None:
        raise ValueError(f"{form['label']} is empty")
    return [row[name] for name in form["texts"]], label


def _label(text: str, form: _Format) -> float | None:
    """The label in a field; None for an empty field. Texts that Python reads as numbers and other
    programs do not are refused, such as `1_0` and digits of other scripts."""
    if not text:
        return None
    has_classes = "classes" in form
    if _CLASS.fullmatch(text) if has_classes else text.isascii() and "_" not in text:
        with suppress(ValueError):
            label = float(text)
            if 0 <= label <= form["highest"]:
                return label
    kind = "a class" if has_classes else "a number"
    shown = f"{text[:_SHOWN_LABEL]!r}{' and more' if len(text) > _SHOWN_LABEL else ''}"
    raise InputError(f"{form['label']} is {shown}, not {kind} from 0 to {form['highest']}")


PARTS: Final = ("sst", "quora", "sts")
"""Both texts of a part's pairs go through the encoder separately."""

MULTITASK: Final = Task(
    "multitask",
    files=tuple(file for part in PARTS for file in TASKS[part].files),
    notes=tuple(f"{part}: {note}" for part in PARTS for note in TASKS[part].notes),
    parts=PARTS,
)


@dataclass(frozen=True)
class MultitaskData(Data):
    """The examples of the parts whose files a folder holds, in the order of `PARTS`; `missing` has
    a line for each of the others."""

    task: Task
    by_part: Mapping[str, TaskData]
    problems: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def parts(self) -> Mapping[str, TaskData]:
        return self.by_part

    @cached_property
    def digest(self) -> str:
        digests = " ".join(f"{part} {data.digest}" for part, data in self.parts.items())
        return hashlib.sha256(f"{self.task.kind} {digests}".encode()).hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        notes = [f"{part}: {note}" for part, data in self.parts.items() for note in data.notes]
        return (*notes, *self.missing)

    def pieces(self) -> Mapping[str, TaskData]:
        pieces = {}
        for part, data in self.parts.items():
            sides = zip(data.train.split_pairs(), data.dev.split_pairs(), strict=True)
            for number, (train, dev) in enumerate(sides, start=1):
                pieces[f"{part}.{number}"] = TaskData(data.task, train, dev)
        return pieces


def parts_in(folder: Path) -> list[str]:
    return [part for part in PARTS if not missing_files(part, folder)]


def load_parts(folder: Path, load_part: Callable[[str], TaskData]) -> MultitaskData:
    """The examples of the parts that a folder holds, each loaded by its name. InputError: no such
    folder, one without any part, or a file of another kind."""
    if not is_folder(folder):
        raise InputError(f"--data {folder}: is no folder")
    loaded = {part: load_part(part) for part in parts_in(folder)}
    if not loaded:
        raise InputError(
            f"--data {folder}: task {MULTITASK.name} needs both files of at least one of "
            f"{', '.join(PARTS)} there, such as {' and '.join(TASKS[PARTS[0]].files)}"
        )
    missing = tuple(
        f"{MULTITASK.name} without {part}, as {' and '.join(absent)} can't be found"
        for part in PARTS
        if (absent := missing_files(part, folder))
    )
    problems = (problem for data in loaded.values() for problem in data.problems)
    return MultitaskData(MULTITASK, loaded, tuple(problems), missing)
