"""Which columns hold texts and labels, where there is no doubt."""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Final

from bench.common.errors import InputError
from bench.common.files import read_tables
from bench.examples.records import Records, listed, quoted
from bench.examples.words import DOCUMENT
from bench.plan.dataset import DataSpec
from bench.plan.metrics import BY_WORD, WORDS

_NAMES: Final = read_tables(__file__, "columns.toml")


def columns_of(spec: DataSpec) -> list[str]:
    """The columns that are used: text, label, then the second text and the group, if known."""
    columns = (spec.text, spec.label, spec.text_pair, spec.group)
    return [column for column in columns if column is not None]


def check_columns(table: Records, spec: DataSpec) -> None:
    """Test that a table has the columns that are known. InputError with the nearest names."""
    for role in ("text", "text_pair", "label", "group"):
        if column := getattr(spec, role):
            table.check_column(column, f"--{role.replace('_', '-')}")


def choose(table: Records, spec: DataSpec) -> tuple[DataSpec, tuple[str, ...]]:
    """A description with the columns of a table, as given or inferred, and notes on the latter; a
    pair is inferred only where no text is given. InputError: a column that is missing, has two
    roles, or can't be inferred without doubt."""
    check_columns(table, spec)
    used = columns_of(spec.model_copy(update={"group": None}))
    if len(set(used)) < len(used):
        raise InputError(f"{table.name}: the columns {listed(used)} have two roles; give others")
    free = _free(table, (*used, spec.group))
    chosen = _inferred(table, spec, free)
    for role in ("text", "label"):
        if not getattr(chosen, role):
            raise InputError(
                f"{table.name}: which column holds the {role}? --{role} COLUMN says it; there are "
                f"{listed(table.columns)}"
            )
    check_columns(table, chosen)
    return chosen, tuple(_notes(spec, chosen, free))


def as_words(table: Records, spec: DataSpec) -> DataSpec:
    """A description with the columns and the problem of words with tags, if a table has lists of
    both; documents are groups unless others are given."""
    if spec.problem not in (None, *BY_WORD):
        return spec
    by_name = {_plain(name): name for name in table.columns}
    text, label = (
        given or next((by_name[name] for name in _NAMES[role] if name in by_name), None)
        for given, role in ((spec.text, "words"), (spec.label, "tags"))
    )
    if text not in table.columns or label not in table.columns:
        return spec
    _, first = next(table.read([text, label]), (0, ""))
    if spec.problem is None and not (first and all(isinstance(each, list) for each in first)):
        return spec
    group = spec.group or (DOCUMENT if DOCUMENT in table.columns else None)
    values = {"text": text, "label": label, "group": group, "problem": spec.problem or WORDS}
    return spec.model_copy(update=values)


def choose_texts(
    table: Records, text: str | None, text_pair: str | None, *, pairs: bool, by_word: bool = False
) -> tuple[str, ...]:
    """The column of the texts of a table without labels or, of pairs, both columns. InputError: a
    column that is missing, or can't be inferred without doubt."""
    given = DataSpec(path=table.name).model_copy(update={"text": text, "text_pair": text_pair})
    check_columns(table, given)
    if text_pair is not None and not pairs:
        raise InputError(f"--text-pair {quoted(text_pair)}: the model takes single texts")
    free = _free(table, (text, text_pair))
    if by_word and text is None:
        words = (name for name in free if _plain(name) in _NAMES["words"])
        text = next(words, None)
        given = given.model_copy(update={"text": text})
    if len(free) == 1 and not text and not pairs:
        return (free[0],)
    chosen = _inferred(table, given, free)
    names = (chosen.text or "", chosen.text_pair or "") if pairs else (chosen.text or "",)
    if not all(names) or (chosen.text_pair is not None and not pairs):
        which = "columns hold the two texts of each pair" if pairs else "column holds the text"
        flags = "--text COLUMN --text-pair COLUMN" if pairs else "--text COLUMN"
        raise InputError(
            f"{table.name}: which {which}? {flags} says it; there are {listed(table.columns)}"
        )
    if len({*names}) < len(names):
        raise InputError(f"{table.name}: --text and --text-pair are the same column; give others")
    check_columns(table, chosen)
    return names


def _free(table: Records, used: Collection[str | None]) -> list[str]:
    """The columns whose role is not given, without those of numbers of rows."""
    return [
        name
        for name in dict.fromkeys(table.columns)
        if name not in used and _plain(name) not in _NAMES["numbers_of_rows"]
    ]


def _inferred(table: Records, given: DataSpec, free: Sequence[str]) -> DataSpec:
    text, pair, label = given.text, given.text_pair, given.label
    if not text and pair is None:
        by_name = {_plain(name): name for name in free}
        pairs = [names for names in _NAMES["pairs"] if by_name.keys() >= set(names)]
        if len(pairs) == 1:
            text, pair = (by_name[name] for name in pairs[0])
    left = [name for name in free if name not in (text, pair)]
    label = label or _only(left, _NAMES["labels"])
    left = [name for name in left if name != label]
    text = text or _only(left, _NAMES["texts"])
    left = [name for name in left if name != text]
    if len(left) == 1 and bool(text) != bool(label):
        text, label = text or left[0], label or left[0]
    elif len(left) == 2 and not text and not label:
        text, label = _longer(table, left)
    return given.model_copy(update={"text": text, "text_pair": pair, "label": label})


def _only(columns: Sequence[str], names: Sequence[str]) -> str:
    matching = [column for column in columns if _plain(column) in names]
    return matching[0] if len(matching) == 1 else ""


def _longer(table: Records, columns: Sequence[str]) -> tuple[str, str]:
    """The column with longer and more distinct values at first, and the other; "" in doubt."""
    rows = [fields for _, fields in islice(table.read(columns), 1000) if type(fields) is tuple]
    values = [[str(row[place] or "") for row in rows] for place in range(2)]
    lengths = [sum(map(len, column)) for column in values]
    text = int(lengths[1] > lengths[0])
    label = columns[1 - text]
    if lengths[0] == lengths[1] or len(set(values[text])) < len(set(values[1 - text])):
        return "", ""
    if label in values[1 - text]:
        raise InputError(
            f"{table.name}: its first line looks like an example, since {quoted(label)} is a label "
            "in other lines too; put a header before it, such as text,label"
        )
    return columns[text], label


def _notes(given: DataSpec, chosen: DataSpec, free: Sequence[str]) -> Iterator[str]:
    others = [name for name in free if name not in columns_of(chosen)]
    if not given.text:
        both = "" if chosen.text_pair is None else f" and {quoted(chosen.text_pair)}"
        yield f"text: column{'s' if both else ''} {quoted(chosen.text or '')}{both}"
    if not given.label:
        yield f"label: column {quoted(chosen.label or '')}"
    if others and not (given.text and given.label):
        yield f"columns not used: {listed(others, 8)}"


def _plain(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "").replace(" ", "")
