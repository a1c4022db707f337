"""The problem that labels pose, their classes in order, and labels as numbers."""

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import InputError
from bench.examples.records import Records, Value, listed, quoted
from bench.plan.metrics import MULTI_LABEL, REGRESSION, SINGLE_LABEL

_MOST_CELLS: Final = 2**29
"""Most entries of the table of examples and classes of a multi-label problem: 512 MiB."""
_FEW: Final = 20  # integers with more distinct values may as well be amounts; so may classes be ids
_SEPARATORS: Final = ("|", ";", ",")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True)
class Labels:
    """The labels of the examples of a table, none of them missing: `values` are texts or lists of
    texts, and `numbers` the line or record of each."""

    table: Records
    column: str
    values: Sequence[Value]
    numbers: Sequence[int]

    @property
    def where(self) -> str:
        return f"{self.table.name}: column {quoted(self.column)}"

    def place(self, index: int) -> str:
        line = f"{self.table.unit} {self.numbers[index]:,}"
        return f"{self.table.name}, {line}: column {quoted(self.column)}"

    @cached_property
    def has_lists(self) -> bool:
        return any(isinstance(value, list) for value in self.values)

    def each(self) -> Iterator[tuple[int, str]]:
        """All texts, also those in lists, and the index of the example."""
        for index, value in enumerate(self.values):
            for text in value if isinstance(value, list) else (value,):
                yield index, text or ""

    @cached_property
    def counts(self) -> Counter[str]:
        return Counter(text for _, text in self.each())


def infer_problem(labels: Labels) -> str:
    """The kind of problem that labels pose. InputError where they leave it in doubt."""
    counts, examples = labels.counts, len(labels.values)
    if labels.has_lists or all(map(_is_list, counts)):
        return MULTI_LABEL
    if labels.column in labels.table.class_names:
        return SINGLE_LABEL
    if not all(map(_NUMBER.fullmatch, counts)):
        if len(counts) > _FEW and 2 * len(counts) > examples:
            raise InputError(
                f"{labels.where} has {len(counts):,} distinct labels in {examples:,} examples, as "
                f"ids or texts have: --label COLUMN names another, or --problem {SINGLE_LABEL} "
                "takes it all the same"
            )
        for mark in _SEPARATORS:  # of combinations of names there are fewer names
            if len({part.strip() for text in counts for part in text.split(mark)}) >= len(counts):
                continue
            example = next(text for text in counts if mark in text)
            raise InputError(
                f"{labels.where} has labels with `{mark}`, such as {quoted(example)}: "
                f"several labels of a text, or one? Say which with --problem {MULTI_LABEL} or "
                f"--problem {SINGLE_LABEL}"
            )
        return SINGLE_LABEL
    if any(float(text) % 1 for text in counts):
        return REGRESSION
    if all(map(_INTEGER.fullmatch, counts)) and len(counts) <= _FEW and min(counts.values()) > 1:
        return SINGLE_LABEL
    raise InputError(
        f"{labels.where} has {len(counts):,} distinct whole numbers, {listed(counts, 3)}: classes "
        f"or amounts? say which with --problem {SINGLE_LABEL} or --problem {REGRESSION}"
    )


def _is_list(text: str) -> bool:
    return text.startswith("[") and text.endswith("]")


def as_lists(labels: Labels, classes: Collection[str] = ()) -> tuple[Labels, tuple[str, ...]]:
    """Labels of a multi-label problem as lists without repetitions, and a note if texts were split.
    Texts are lists as JSON or Python write them, or else labels between separators, of known
    classes those that give them. InputError for lists with a 0 or 1 for each class."""
    mark = "\0"
    if labels.has_lists:
        lists = [[value] if isinstance(value, str) else value or [] for value in labels.values]
    elif all(map(_is_list, labels.counts)):
        lists = [_parsed(text, labels.place(index)) for index, text in labels.each()]
    else:
        known = set(classes)

        def unknown(mark: str) -> int:
            parts = (part.strip() for _, text in labels.each() for part in text.split(mark))
            return sum(part not in known for part in parts) if known else 0

        marks = [mark for mark in _SEPARATORS if any(mark in text for text in labels.counts)]
        mark = min((*marks, mark), key=unknown)
        lists = [[] if text.strip() == "[]" else text.split(mark) for _, text in labels.each()]
    values: list[Value] = []
    for index, parts in enumerate(lists):
        names = [name for part in parts if (name := part.strip())]
        values.append([*dict.fromkeys(names)])
        if len(set(names)) < len(names) and set(names) <= {"0", "1"}:
            raise InputError(
                f"{labels.place(index)} has a 0 or 1 for each class; the names of an example's "
                "classes are expected"
            )
    note = () if mark == "\0" else (f"labels are separated by `{mark}`",)
    return replace(labels, values=values), note


def _parsed(text: str, place: str) -> list[str]:
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            names = [str(each) for each in parse(text)]
            "".join(names).encode()  # fails with half of a surrogate pair
            return names
    raise InputError(
        f"{place} has {quoted(text)}, which is no list of labels; correct it, or give --problem "
        f"{SINGLE_LABEL}"
    )


def classes_of(labels: Labels, given: Sequence[str]) -> tuple[str, ...]:
    """The classes in order: those that the user gave, or else those that occur. InputError if a
    label is none of the given classes."""
    classes = tuple(given) or labels.table.class_names.get(labels.column)
    if classes is None:
        numbers = all(map(_NUMBER.fullmatch, labels.counts))
        return tuple(sorted(labels.counts, key=lambda x: (float(x) if numbers else 0, x)))
    if len(set(classes)) < len(classes):
        raise InputError(f"{labels.where}: the classes {listed(classes)} have one of them twice")
    check_known(labels, classes, "which the given classes lack")
    return classes


def check_known(labels: Labels, known: Collection[str], lack: str) -> None:
    """Refuse labels that are no known classes; `lack` is the end of the line about the first."""
    if unknown := labels.counts.keys() - set(known):
        index, name = next((index, text) for index, text in labels.each() if text in unknown)
        raise InputError(f"{labels.place(index)} has the label {quoted(name)}, {lack}")


def encode(labels: Labels, problem: str, classes: Sequence[str]) -> NDArray[Any]:
    """Labels as numbers: class indices, int64 [N]; numbers, float64 [N]; or 0 and 1, int8 [N,
    classes]. `classes` are all that occur. InputError: a label of another kind than the
    problem's."""
    if problem != MULTI_LABEL and labels.has_lists:
        raise InputError(f"{labels.where} holds lists: --problem {MULTI_LABEL} reads them")
    if problem == REGRESSION:
        return np.array([_number(labels, index, text) for index, text in labels.each()])
    indices = {name: index for index, name in enumerate(classes)}
    if problem == SINGLE_LABEL:
        return np.fromiter((indices[text] for _, text in labels.each()), np.int64)
    shape = len(labels.values), len(classes)
    if shape[0] * shape[1] > _MOST_CELLS:
        raise InputError(
            f"{labels.where}: {shape[0]:,} examples times {shape[1]:,} classes are more than the "
            f"{_MOST_CELLS:,} that are supported of several labels"
        )
    table = np.zeros(shape, np.int8)
    for row, text in labels.each():
        table[row, indices[text]] = 1
    return table


def _number(labels: Labels, index: int, text: str) -> float:
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise InputError(
            f"{labels.place(index)} has {quoted(text)}, which is no finite number; correct it, or "
            "empty the field to leave the example out"
        )
    return number
