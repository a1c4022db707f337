"""Which columns hold texts and labels, where there is no doubt."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from bench.common.errors import InputError
from bench.examples.table import Table, listed, quoted
from bench.plan.dataset import DataSpec

_TEXTS: Final = (
    "text", "sentence", "review", "content", "comment", "body", "tweet", "message", "document",
    "question", "utterance", "abstract", "headline",
)  # fmt: skip
_PAIRS: Final = (
    ("sentence1", "sentence2"), ("question1", "question2"), ("premise", "hypothesis"),
    ("text1", "text2"), ("texta", "textb"), ("sentencea", "sentenceb"), ("question", "sentence"),
    ("query", "passage"),
)  # fmt: skip
_LABELS: Final = (
    "label", "labels", "target", "targets", "class", "category", "categories", "topic", "intent",
    "sentiment", "emotion", "polarity", "score", "rating", "stars", "similarity", "isduplicate",
)  # fmt: skip
_NUMBERS_OF_ROWS: Final = ("", "id", "idx", "index", "unnamed:0")
_SAMPLE: Final = 1000
"""Rows that decide which of two columns is the text."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are used."""

    text: str
    text_pair: str | None
    label: str
    group: str | None

    def names(self) -> tuple[str, ...]:
        """All of them: text, label, then those of `text_pair` and `group` that exist."""
        return tuple(
            name for name in (self.text, self.label, self.text_pair, self.group) if name is not None
        )

    def check(self, table: Table) -> None:
        """Test that a table has them.

        Raises:
            InputError: with the nearest names.
        """
        for flag, name in (
            ("--text", self.text),
            ("--text-pair", self.text_pair),
            ("--label", self.label),
            ("--group", self.group),
        ):
            if name is not None:
                table.check_column(name, flag)


def choose(table: Table, spec: DataSpec) -> tuple[Columns, tuple[str, ...]]:
    """The columns of a table, as given or inferred, and notes on what was inferred.

    A pair is inferred only where no text is given.

    Raises:
        InputError: a column that is missing, has two roles, or can't be inferred without doubt.
    """
    if len(set(table.columns)) < 2:
        raise InputError(
            f"{table.name}: has one column only, {listed(table.columns)}; a text and a label are "
            "needed, in fields separated by a comma, semicolon, tab or |"
        )
    given = Columns(spec.text or "", spec.text_pair, spec.label or "", spec.group)
    for flag, name in (
        ("--text", spec.text), ("--text-pair", spec.text_pair), ("--label", spec.label),
        ("--group", spec.group),
    ):  # fmt: skip
        if name is not None:
            table.check_column(name, flag)
    used = [name for name in (spec.text, spec.text_pair, spec.label) if name is not None]
    if len(set(used)) < len(used):
        raise InputError(f"{table.name}: the columns {listed(used)} have two roles; give others")
    free = [
        name
        for name in dict.fromkeys(table.columns)
        if name not in (*used, spec.group) and _plain(name) not in _NUMBERS_OF_ROWS
    ]
    inferred = _inferred(table, given, free)
    for flag, name in (("--text", inferred.text), ("--label", inferred.label)):
        if not name:
            what = "the text" if flag == "--text" else "the label"
            raise InputError(
                f"{table.name}: which column holds {what}? {flag} COLUMN says it; there are "
                f"{listed(table.columns)}"
            )
    inferred.check(table)
    return inferred, tuple(_notes(given, inferred, free))


def _inferred(table: Table, given: Columns, free: Sequence[str]) -> Columns:
    """The columns as far as they can be inferred; an empty name where they can't."""
    text, pair, label = given.text, given.text_pair, given.label
    if not text and pair is None:
        pairs = [
            (first, second)
            for first_name, second_name in _PAIRS
            for first in free
            for second in free
            if (_plain(first), _plain(second)) == (first_name, second_name)
        ]
        if len(pairs) == 1:
            text, pair = pairs[0]
    left = [name for name in free if name not in (text, pair)]
    label = label or _only(left, _LABELS)
    left = [name for name in left if name != label]
    text = text or _only(left, _TEXTS)
    left = [name for name in left if name != text]
    if len(left) == 1 and bool(text) != bool(label):
        text, label = text or left[0], label or left[0]
    elif len(left) == 2 and not text and not label:
        text, label = _longer(table, left)
    return Columns(text, pair, label, given.group)


def _only(columns: Sequence[str], names: Sequence[str]) -> str:
    """The only column with one of some names, or an empty name."""
    matching = [column for column in columns if _plain(column) in names]
    return matching[0] if len(matching) == 1 else ""


def _longer(table: Table, columns: Sequence[str]) -> tuple[str, str]:
    """The column with longer and more distinct values, and the other; empty names in doubt.

    Raises:
        InputError: if the header is probably an example.
    """
    rows = [values for _, values in islice(table.read(columns), _SAMPLE) if type(values) is tuple]
    if not rows:
        return "", ""
    fields = [[str(row[place] or "") for row in rows] for place in range(2)]
    lengths = [sum(map(len, values)) for values in fields]
    distinct = [len(set(values)) for values in fields]
    text = int(lengths[1] > lengths[0])
    if lengths[0] == lengths[1] or distinct[text] < distinct[1 - text]:
        return "", ""
    label = columns[1 - text]
    if label in fields[1 - text]:
        raise InputError(
            f"{table.name}: its first line looks like an example, since {quoted(label)} is a label "
            "in other lines too; put a header before it, such as text,label"
        )
    return columns[text], label


def _notes(given: Columns, inferred: Columns, free: Sequence[str]) -> Iterator[str]:
    others = [name for name in free if name not in inferred.names()]
    if not given.text:
        both = "" if inferred.text_pair is None else f" and {quoted(inferred.text_pair)}"
        yield f"text: column{'s' if both else ''} {quoted(inferred.text)}{both}"
    if not given.label:
        yield f"label: column {quoted(inferred.label)}"
    if others and not (given.text and given.label):
        yield f"columns not used: {listed(others, 8)}"


def _plain(name: str) -> str:
    """A column's name without case and separators."""
    return name.casefold().replace("_", "").replace("-", "").replace(" ", "")
