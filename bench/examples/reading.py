"""Data of one's own: read, with the roles of columns and the kind of problem inferred."""

import re
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from bench.common.errors import InputError
from bench.examples.columns import Columns, choose
from bench.examples.labels import (
    Labels,
    as_lists,
    check_known,
    check_not_ids,
    check_varied,
    classes_of,
    encode,
    infer_problem,
)
from bench.examples.sources import course_tasks, test_table, training_tables
from bench.examples.table import Table, Value, listed, quoted
from bench.plan.dataset import DataSpec
from bench.plan.problems import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Problem
from minbert.data.tasks import Examples

__all__ = ["ReadData", "TestData", "course_tasks", "read", "read_test"]

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_FEW_CLASSES: Final = 6
"""Most classes that the note on labels lists."""


@dataclass(frozen=True)
class ReadData:
    """The examples of a data set, not yet split.

    Attributes:
        spec: as given, with the columns, the problem and the classes that were inferred.
        examples: for training; labels int64 [N] of class indices, float64 [N] of numbers, or int8
            [N, classes] of 0 and 1.
        validation: those for dev, where the data has them.
        groups: the group of each example, with a column of groups.
        classes: their names, in the order of the indices; none of a regression.
        notes: what was inferred, and what was left out, a line each.
    """

    spec: DataSpec
    examples: Examples
    validation: Examples | None
    groups: tuple[str, ...] | None
    validation_groups: tuple[str, ...] | None
    problem: Problem
    classes: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TestData:
    """The test examples of a data set, labels as of `ReadData`, and notes on what was left out."""

    __test__ = False

    examples: Examples
    notes: tuple[str, ...]


def read(spec: DataSpec) -> ReadData:
    """The training and validation examples of a data set; nothing of its test examples.

    Raises:
        InputError: data that can't be read or used, or whose columns or problem are in doubt.
    """
    table, validation_table = training_tables(spec)
    columns, column_notes = choose(table, spec)
    rows = _collect(table, columns)
    labels = rows.labels
    problem = spec.problem or infer_problem(labels)
    classes: tuple[str, ...] = ()
    class_notes: list[str] = []
    if problem == REGRESSION:
        if spec.classes:
            raise InputError(f"{table.name}: a regression has no classes, but some are given")
    else:
        if problem == MULTI_LABEL:
            labels, class_notes = as_lists(labels, spec.classes)
        elif not (spec.problem or spec.classes or labels.class_names):
            check_not_ids(labels)
        classes, more_notes = classes_of(labels, spec.classes)
        class_notes = [*class_notes, *more_notes]
    examples = rows.examples(encode(labels, problem, classes))
    check_varied(labels, examples.labels)
    resolved = spec.model_copy(
        update={
            "text": columns.text,
            "text_pair": columns.text_pair,
            "label": columns.label,
            "problem": problem,
            "classes": classes,
        }
    )
    notes = [*table.notes, *column_notes, _kind_note(problem, classes, spec), *class_notes]
    notes += rows.notes
    validation = other = None
    if validation_table is not None:
        learnt = classes if spec.classes else {text for _, text in labels.each()}
        other, validation = _labelled(validation_table, columns, resolved, learnt)
        notes += other.notes
    return ReadData(
        resolved,
        examples,
        validation,
        rows.groups,
        other.groups if other else None,
        problem,
        classes,
        tuple(notes),
    )


def read_test(spec: DataSpec) -> TestData:
    """The test examples of a data set.

    Args:
        spec: that of `ReadData`, with columns, problem and classes.

    Raises:
        InputError: there are none, or they can't be read or used.
    """
    if spec.text is None or spec.label is None or spec.problem is None:
        raise ValueError("the columns and the problem have to be those of the training examples")
    columns = Columns(spec.text, spec.text_pair, spec.label, None)
    rows, examples = _labelled(test_table(spec), columns, spec, spec.classes)
    return TestData(examples, tuple(rows.notes))


@dataclass(frozen=True)
class _Rows:
    """The rows of a table that can be used, and notes on the others."""

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    groups: tuple[str, ...] | None
    labels: Labels
    notes: list[str]

    def examples(self, labels: NDArray[Any]) -> Examples:
        """The rows as examples, with their labels as numbers."""
        return Examples(self.texts, self.pairs, labels)


def _labelled(
    table: Table, columns: Columns, spec: DataSpec, learnt: Collection[str]
) -> tuple[_Rows, Examples]:
    """The examples of another table, with the classes of the training examples.

    Args:
        spec: with problem and classes.
        learnt: the classes that labels may be.
    """
    columns.check(table)
    rows = _collect(table, columns)
    rows.notes[:0] = table.notes
    labels, problem = rows.labels, spec.problem or SINGLE_LABEL
    if problem == MULTI_LABEL:
        labels, _ = as_lists(labels, spec.classes)
    if problem != REGRESSION:
        check_known(labels, learnt, "which no training example has")
    return rows, rows.examples(encode(labels, problem, spec.classes))


@dataclass
class _LeftOut:
    """Rows that are left out for a reason."""

    reason: str
    count: int = 0
    first: int = 0

    def add(self, number: int) -> None:
        """Count a row."""
        self.count += 1
        self.first = self.first or number

    def note(self, table: Table) -> str:
        """A line about them."""
        rows, verb, at = ("row", "is", "at") if self.count == 1 else ("rows", "are", "first at")
        return (
            f"{Path(table.name).name}: {self.count:,} {rows} {self.reason} {verb} left out, "
            f"{at} {table.unit} {self.first:,}"
        )


def _collect(table: Table, columns: Columns) -> _Rows:
    """The rows with a text and a label.

    Raises:
        InputError: if there are none, or half of the rows or more can't be read.
    """
    texts: list[str] = []
    pairs: list[str] = []
    groups: list[str] = []
    labels: list[Value] = []
    numbers = array("q")
    broken: dict[str, _LeftOut] = {}
    empty, unlabelled = _LeftOut("with an empty text"), _LeftOut("without a label")
    has_pair, has_group = columns.text_pair is not None, columns.group is not None
    short, shared = Path(table.name).name, dict[str, str]()
    for number, values in table.read(columns.names()):
        if isinstance(values, str):
            broken.setdefault(values, _LeftOut(f"with {values}")).add(number)
            continue
        text, label, *others = values
        for value in (text, *others):
            if isinstance(value, list):
                raise InputError(
                    f"{table.name}, {table.unit} {number:,}: a column of texts or groups holds a "
                    f"list; {listed(columns.names())} are read"
                )
        pair = others[0] if has_pair else "-"
        text, pair = str(text or "").strip(), str(pair or "").strip()
        if not text or not pair:
            empty.add(number)
            continue
        if isinstance(label, str):
            label = label.strip()
        if label is None or label == "":
            unlabelled.add(number)
            continue
        group = (
            (str(others[-1] or "").strip() or f"({short}, {table.unit} {number})")
            if has_group
            else ""
        )
        if _is_broken(text, pair, group, *(label if isinstance(label, list) else (label,))):
            reason = "a NUL character or half of a surrogate pair"
            broken.setdefault(reason, _LeftOut(f"with {reason}")).add(number)
            continue
        texts.append(text)
        labels.append(shared.setdefault(label, label) if isinstance(label, str) else label)
        numbers.append(number)
        if has_pair:
            pairs.append(pair)
        if has_group:
            groups.append(shared.setdefault(group, group))
    notes = [each.note(table) for each in (*broken.values(), empty, unlabelled) if each.count]
    count, count_broken = len(texts), sum(each.count for each in broken.values())
    total = count + count_broken + empty.count + unlabelled.count
    if count_broken and 2 * count_broken >= total:
        raise InputError(
            f"{table.name}: {count_broken:,} of {total:,} rows can't be read; "
            f"{next(iter(broken.values())).note(table).partition(': ')[2]}"
        )
    if not count:
        raise InputError(f"{table.name}: {_nothing(columns, total, empty, unlabelled)}")
    found = Labels(
        table.name,
        columns.label,
        labels,
        table.unit,
        numbers,
        table.class_names.get(columns.label),
    )
    return _Rows(
        tuple(texts),
        tuple(pairs) if has_pair else None,
        tuple(groups) if has_group else None,
        found,
        notes,
    )


def _nothing(columns: Columns, total: int, empty: _LeftOut, unlabelled: _LeftOut) -> str:
    """The reason why a table has no examples."""
    if not total:
        return "has a header, and no examples after it"
    if empty.count == total:
        return f"the text is empty in all {total:,} rows; --text COLUMN names another column"
    if unlabelled.count == total:
        return (
            f"column {quoted(columns.label)} is empty in all {total:,} rows; --label COLUMN names "
            "another"
        )
    return f"none of its {total:,} rows has both a text and a label"


def _is_broken(*texts: str) -> bool:
    return any(
        "\0" in text or (not text.isascii() and _SURROGATE.search(text) is not None)
        for text in texts
    )


def _kind_note(problem: Problem, classes: Sequence[str], spec: DataSpec) -> str:
    """A line on what is learned."""
    inferred = "" if spec.problem else ", inferred"
    if problem == REGRESSION:
        return f"problem: regression{inferred}"
    return (
        f"problem: {problem}{inferred}, {len(classes):,} classes: {listed(classes, _FEW_CLASSES)}"
    )
