"""The problem that labels pose, their classes in order, and labels as numbers."""

import ast
import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import InputError
from bench.examples.table import Value, listed, quoted
from bench.plan.problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Problem

MOST_CLASSES: Final = 2**17
"""Most classes; at 768 wide, a head for them has 100 million weights, as a base encoder has."""
_MOST_CELLS: Final = 2**29
"""Most entries of the table of examples and classes of a multi-label problem: 512 MiB."""
_FEW: Final = 20
"""Integers with more distinct values may as well be amounts; so may classes be ids."""
_SEPARATORS: Final = ("|", ";", ",")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")
_CHOICE: Final = f"--problem {SINGLE_LABEL} or --problem {REGRESSION} decides"


@dataclass(frozen=True)
class Labels:
    """The labels of the examples of a table, none of them missing.

    Attributes:
        table, column: names, for messages.
        values: texts, or lists of texts.
        unit, numbers: the line or record of each.
        class_names: the classes in their order, where the format has them.
    """

    table: str
    column: str
    values: Sequence[Value]
    unit: str
    numbers: Sequence[int]
    class_names: tuple[str, ...] | None = None

    @property
    def where(self) -> str:
        """The table and column."""
        return f"{self.table}: column {quoted(self.column)}"

    def place(self, index: int) -> str:
        """The table, and the line or record of a label."""
        return f"{self.table}, {self.unit} {self.numbers[index]:,}"

    @cached_property
    def has_lists(self) -> bool:
        """Whether any value is a list."""
        return any(isinstance(value, list) for value in self.values)

    def each(self) -> Iterator[tuple[int, str]]:
        """All texts, also those in lists, and the index of the example."""
        for index, value in enumerate(self.values):
            if isinstance(value, list):
                for text in value:
                    yield index, text
            elif value is not None:
                yield index, value

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each text occurs."""
        return Counter(text for _, text in self.each())


def infer_problem(labels: Labels) -> Problem:
    """The kind of problem that labels pose.

    Raises:
        InputError: where they leave it in doubt.
    """
    if labels.has_lists:
        return MULTI_LABEL
    counts = labels.counts
    if labels.class_names is not None:
        return SINGLE_LABEL
    if not all(map(_NUMBER.fullmatch, counts)):
        if all(text.startswith("[") for text in counts):
            raise InputError(
                f"{labels.where} looks like lists, such as {quoted(next(iter(counts)))}: "
                f"--problem {MULTI_LABEL} or --problem {SINGLE_LABEL} decides"
            )
        return SINGLE_LABEL
    if not all(map(_INTEGER.fullmatch, counts)):
        if any(float(text) % 1 for text in counts):
            return REGRESSION
        raise InputError(
            f"{labels.where} has whole numbers written with a fraction, such as "
            f"{quoted(next(iter(counts)))}: classes or amounts? {_CHOICE}"
        )
    if len(counts) > _FEW or min(counts.values()) < 2:
        raise InputError(
            f"{labels.where} has {len(counts):,} distinct whole numbers, "
            f"{sum(count == 1 for count in counts.values()):,} of them once: classes or amounts? "
            f"{_CHOICE}"
        )
    return SINGLE_LABEL


def check_not_ids(labels: Labels) -> None:
    """Test that inferred classes can be classes.

    Raises:
        InputError: with more than half as many classes as examples.
    """
    count = len(labels.counts)
    if count > _FEW and 2 * count > len(labels.values):
        raise InputError(
            f"{labels.where} has {count:,} distinct labels in {len(labels.values):,} examples, as "
            f"ids or texts have: --label COLUMN names another, or --problem {SINGLE_LABEL} insists"
        )


def as_lists(labels: Labels, classes: Sequence[str] = ()) -> tuple[Labels, list[str]]:
    """Labels of a multi-label problem as lists, and notes on how texts were split.

    Texts are lists in JSON, or in Python's notation as pandas writes them; or else labels between
    separators. With known classes the separator is the one that gives them.

    Args:
        classes: all classes, if they are known.
    """
    if labels.has_lists:
        lists = [[value] if isinstance(value, str) else value or [] for value in labels.values]
        return _cleaned(labels, lists), []
    texts = [str(value) for value in labels.values]
    if all(text.startswith("[") for text in texts):
        return _cleaned(labels, [_list(text, labels, i) for i, text in enumerate(texts)]), []
    found = [mark for mark in _SEPARATORS if any(mark in text for text in texts)]
    if classes:
        known = set(classes)

        def unknown(mark: str) -> int:
            return sum(part.strip() not in known for text in texts for part in text.split(mark))

        found = sorted((*found, "\0"), key=unknown)
    mark = found[0] if found else "\0"
    note = f"labels are separated by `{mark}`" if mark != "\0" else "no example has several labels"
    return _cleaned(labels, [text.split(mark) for text in texts]), [note]


def _list(text: str, labels: Labels, index: int) -> list[str]:
    for read in (json.loads, ast.literal_eval):
        try:
            values = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(values, list) and all(isinstance(each, str | int) for each in values):
            return [str(each) for each in values]
    raise InputError(f"{labels.place(index)}: {quoted(text)} is no list of labels")


def _cleaned(labels: Labels, lists: Sequence[Sequence[str]]) -> Labels:
    """Lists without surrounding spaces, empty labels and repetitions.

    Raises:
        InputError: for lists of 0 and 1 that stand for all classes in turn.
    """
    values: list[Value] = []
    for index, parts in enumerate(lists):
        cleaned = [stripped for part in parts if (stripped := part.strip())]
        distinct = list(dict.fromkeys(cleaned))
        if len(distinct) < len(cleaned) and set(distinct) <= {"0", "1"}:
            raise InputError(
                f"{labels.place(index)}: column {quoted(labels.column)} has a 0 or 1 for each "
                "class; lists of the names of an example's classes are expected"
            )
        values.append(distinct)
    return replace(labels, values=values)


def classes_of(labels: Labels, given: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The classes in order, and notes on them.

    Args:
        given: the classes that the user listed, in order; empty: those that occur.

    Raises:
        InputError: too few or too many classes, or a label that the given ones lack.
    """
    counts = labels.counts
    known = given or labels.class_names
    if known is None:
        classes = tuple(sorted(counts, key=_order(counts)))
    else:
        classes = tuple(known)
        if repeated := [name for name, count in Counter(classes).items() if count > 1]:
            raise InputError(f"{labels.where}: the classes list {listed(repeated)} twice")
        check_known(labels, classes, "which the given classes lack")
    if len(counts) < 2:
        only = f"the only class is {quoted(next(iter(counts)))}" if counts else "no class occurs"
        raise InputError(f"{labels.where}: {only}, so there is nothing to learn")
    if len(classes) > MOST_CLASSES:
        raise InputError(
            f"{labels.where} has {len(classes):,} classes, and at most {MOST_CLASSES:,} are "
            "supported; is it a column of ids?"
        )
    return classes, list(_notes(counts, classes))


def _order(texts: Mapping[str, int]) -> Any:
    """The key that sorts numbers by value, and other texts by character."""
    if all(map(_NUMBER.fullmatch, texts)):
        return lambda text: (float(text), text)
    return lambda text: text


def _notes(counts: Mapping[str, int], classes: Sequence[str]) -> Iterator[str]:
    if without := [name for name in classes if name not in counts]:
        yield f"classes without an example: {listed(without, 8)}"
    if single := [name for name in classes if counts.get(name) == 1]:
        yield f"classes with one example: {listed(single, 8)}"
    alike: dict[object, list[str]] = {}
    for name in classes:
        is_number = _NUMBER.fullmatch(name)
        alike.setdefault(float(name) if is_number else name.casefold(), []).append(name)
    for names in [names for names in alike.values() if len(names) > 1][:3]:
        yield f"{' and '.join(map(quoted, names))} are different classes"


def check_known(labels: Labels, known: Collection[str], lack: str) -> None:
    """Test that all labels are known classes.

    Args:
        lack: the end of the message on a label that is not.

    Raises:
        InputError: with the first such label, and how often it occurs.
    """
    counts = labels.counts
    if not (unknown := counts.keys() - set(known)):
        return
    index, name = next((index, text) for index, text in labels.each() if text in unknown)
    near = difflib.get_close_matches(name[:100], list(known)[:1000], n=1)
    others = len(unknown) - 1
    more = f", and {others:,} other {'label' if others == 1 else 'labels'}," if others else ","
    raise InputError(
        f"{labels.place(index)}: column {quoted(labels.column)} has the label {quoted(name)} "
        f"({_times(counts[name])}){more} {lack}" + (f"; nearest: {quoted(near[0])}" if near else "")
    )


def encode(labels: Labels, problem: Problem, classes: Sequence[str]) -> NDArray[Any]:
    """Labels as numbers.

    Args:
        classes: all that occur; none of a regression.

    Returns:
        Class indices, int64 [N]; or numbers, float64 [N]; or 0 and 1, int8 [N, classes].

    Raises:
        InputError: a label of another kind than the problem's.
    """
    if problem == REGRESSION:
        return _numbers(labels)
    indices = {name: index for index, name in enumerate(classes)}
    if problem == SINGLE_LABEL:
        if labels.has_lists:
            raise InputError(f"{labels.where} holds lists: --problem {MULTI_LABEL} reads them")
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


def _numbers(labels: Labels) -> NDArray[np.float64]:
    if labels.has_lists:
        raise InputError(f"{labels.where} holds lists; numbers are expected for {REGRESSION}")
    numbers = np.empty(len(labels.values))
    for index, text in labels.each():
        number = float(text) if _NUMBER.fullmatch(text) else math.nan
        if not math.isfinite(number):
            raise InputError(
                f"{labels.place(index)}: column {quoted(labels.column)} has {quoted(text)}, which "
                "is no finite number; correct it, or empty the field to leave the example out"
            )
        numbers[index] = number
    return numbers


def check_varied(labels: Labels, numbers: NDArray[Any]) -> None:
    """Test that labels differ.

    Raises:
        InputError: if all are the same.
    """
    if (numbers == numbers[0]).all():
        raise InputError(f"{labels.where}: all labels are the same, so there is nothing to learn")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
