"""Own data: which files, parts of a folder or data sets on the hub are for which use; and
their examples, with the roles of columns and the kind of problem inferred."""

import re
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from bench.common.errors import InputError
from bench.examples import arrow
from bench.examples.columns import as_words, check_columns, choose, columns_of
from bench.examples.labels import Labels, as_lists, check_known, classes_of, encode, infer_problem
from bench.examples.records import Fields, Records, Value, listed
from bench.examples.textfiles import delimited, json_lines, plain_texts
from bench.examples.words import (
    DOCUMENT,
    UNIVERSAL,
    annotated,
    conll,
    encode_classes,
    encode_tags,
    has_words,
    have_scheme,
)
from bench.plan.dataset import HUB, DataSpec
from bench.plan.metrics import BY_WORD, MULTI_LABEL, REGRESSION, SINGLE_LABEL, WORD_CLASSES, WORDS
from minbert.data.problems import PROBLEMS
from minbert.data.tasks import Examples
from minbert.files import is_file, is_folder

_UNREADABLE: Final = re.compile("[\0\ud800-\udfff]")
_WHITE: Final = re.compile(r"\s")
_EMPTY: Final = "with an empty text"
_LIST: Final = "with a list in place of a text"
_BROKEN: Final = "with a NUL character or half of a surrogate pair"
_UNLABELLED: Final = "without a label"
TRAIN, VALIDATION, TEST = "train", "validation", "test"
_NAMES: Final = {TRAIN: (TRAIN,), VALIDATION: (VALIDATION, "valid", "val", "dev"), TEST: (TEST,)}
"""Names of parts, and of files in a folder without their suffixes."""
_READERS: Final[dict[str, Callable[[Path], Records]]] = {
    ".csv": delimited,
    ".tsv": lambda path: conll(path) if has_words(path) else delimited(path),
    ".jsonl": annotated,
    ".json": annotated,
    ".parquet": arrow.parquet,
    ".conll": conll,
    ".bio": conll,
    UNIVERSAL: conll,
    ".txt": conll,
}
_SAVED: Final = ("dataset_dict.json", "state.json")


@dataclass(frozen=True)
class ReadData:
    """The examples of a data set, not yet split."""

    spec: DataSpec  # as given, with the columns, the problem and the classes that were inferred
    examples: Examples  # for training; labels as of `bench.examples.labels.encode`
    validation: Examples | None  # those for dev, where the data has them
    notes: tuple[str, ...]  # what was inferred, and what was left out, a line each


def read(spec: DataSpec) -> ReadData:
    """The training and validation examples of a data set; nothing of its test examples. InputError:
    data that can't be read or used, or whose columns or problem are in doubt."""
    own, spec = _as_stored(spec)
    table, validation_table = training_tables(spec)
    chosen, notes = choose(table, as_words(table, spec))
    if validation_table is not None and chosen.group == DOCUMENT:
        chosen = _without_unknown(chosen, validation_table)
    rows, labels, row_notes = _collect(table, chosen)
    problem = chosen.problem or infer_problem(labels)
    classes: tuple[str, ...] = ()
    split_notes: tuple[str, ...] = ()
    if problem == MULTI_LABEL:
        labels, split_notes = as_lists(labels, spec.classes)
    if problem == WORDS and not have_scheme(labels, spec.classes):
        problem = WORD_CLASSES
    if problem in BY_WORD:
        read_tags = encode_tags if problem == WORDS else encode_classes
        classes, tags, split_notes = read_tags(labels, spec.classes, is_known=bool(spec.classes))
    elif problem != REGRESSION:
        classes = classes_of(labels, spec.classes)
    elif spec.classes:
        raise InputError(f"{table.name}: a regression has no classes, but some are given")
    values = tags if problem in BY_WORD else encode(labels, problem, classes)
    examples = replace(rows, labels=values)
    if problem not in BY_WORD and not np.ptp(examples.labels, axis=0).any():
        raise InputError(f"{labels.where}: all labels are the same, so there is nothing to learn")
    resolved = chosen.model_copy(update={"problem": problem, "classes": classes})
    about = "" if spec.problem else ", inferred"
    if classes:
        about += f", {len(classes):,} classes: {listed(classes, 6)}"
    notes = (*table.notes, *notes, f"problem: {own or problem}{about}", *split_notes, *row_notes)
    validation = None
    if validation_table is not None:
        validation, more = _like(validation_table, resolved, spec.classes or labels.counts)
        notes += more
        if resolved.group == DOCUMENT:  # numbered anew in each file
            names = tuple(f"dev {name}" for name in validation.groups or ())
            validation = replace(validation, groups=names)
    resolved = resolved.model_copy(update={"problem": own or problem})
    return ReadData(resolved, examples, validation, notes)


def read_test(spec: DataSpec) -> tuple[Examples, tuple[str, ...]]:
    """The test examples of a data set, and notes on what was left out; `spec` is that of
    `ReadData`. InputError: there are none, or they can't be read or used."""
    if spec.text is None or spec.label is None:
        raise ValueError("the columns have to be those of the training examples")
    _, spec = _as_stored(spec)
    table = test_table(spec)
    return _like(table, _without_unknown(spec, table), spec.classes)


def _as_stored(spec: DataSpec) -> tuple[str | None, DataSpec]:
    """The name of a plugin's problem, None of any other, and a description with the problem that it
    extends, whose labels are the same. InputError for one that can't be used."""
    if spec.problem is None or spec.problem in PROBLEMS.own:
        return None, spec
    stored = PROBLEMS[spec.problem].stored_as
    return spec.problem, spec.model_copy(update={"problem": stored})


def _without_unknown(spec: DataSpec, table: Records) -> DataSpec:
    """A description without the groups that a table does not have."""
    return spec if spec.group in table.columns else spec.model_copy(update={"group": None})


def _like(
    table: Records, spec: DataSpec, learnt: Collection[str]
) -> tuple[Examples, tuple[str, ...]]:
    """The examples of another table than that of training, and notes on what was left out; their
    labels may be the classes `learnt`."""
    check_columns(table, spec)
    rows, labels, notes = _collect(table, spec)
    problem = spec.problem or SINGLE_LABEL
    if problem == MULTI_LABEL:
        labels, _ = as_lists(labels, spec.classes)
    if problem in BY_WORD:
        read_tags = encode_tags if problem == WORDS else encode_classes
        _, tags, more = read_tags(labels, spec.classes, is_known=True)
        notes += [f"{Path(table.name).name}: {note}" for note in more]
        return replace(rows, labels=tags), (*table.notes, *notes)
    if problem != REGRESSION:
        check_known(labels, learnt, "which no training example has")
    return replace(rows, labels=encode(labels, problem, spec.classes)), (*table.notes, *notes)


def _collect(table: Records, spec: DataSpec) -> tuple[Examples, Labels, list[str]]:
    """The rows with a text and a label, these labels, not yet numbers, and notes on other rows."""
    texts: list[str] = []
    pairs: list[str] = []
    groups: list[str] = []
    labels: list[Value] = []
    numbers = array("q")
    left_out: dict[str, tuple[int, int]] = {}
    shared: dict[str, str] = {}
    short = Path(table.name).name
    for number, fields in table.read(columns_of(spec)):
        row = _row(fields, spec)
        if isinstance(row, str):
            count, first = left_out.get(row, (0, number))
            left_out[row] = count + 1, first
            continue
        text, label, pair, group = row
        texts.append(text)
        labels.append(shared.setdefault(label, label) if isinstance(label, str) else label)
        numbers.append(number)
        if spec.text_pair is not None:
            pairs.append(pair)
        if spec.group is not None:
            group = group or f"({short}, {table.unit} {number})"
            groups.append(shared.setdefault(group, group))
    notes = [
        f"{count:,} {'row' if count == 1 else 'rows'} {reason} left out, first at {table.unit} "
        f"{first:,}"
        for reason, (count, first) in left_out.items()
    ]
    total = len(texts) + sum(count for count, _ in left_out.values())
    broken = sum(n for reason, (n, _) in left_out.items() if reason not in (_EMPTY, _UNLABELLED))
    if not texts or 0 < total <= 2 * broken:
        raise InputError(
            f"{table.name}: only {len(texts):,} of {total:,} rows can be used"
            f"{'; ' if notes else ''}{', '.join(notes)}; are the file, --text and --label right?"
        )
    text_b = None if spec.text_pair is None else tuple(pairs)
    names = None if spec.group is None else tuple(groups)
    return (
        Examples(tuple(texts), text_b, np.empty(0), names),
        Labels(table, spec.label or "", labels, numbers),
        [f"{short}: {note}" for note in notes],
    )


def _row(fields: Fields, spec: DataSpec) -> tuple[str, Value, str, str] | str:
    """The text, the label, the second text and the group of a row; or why it is left out."""
    if isinstance(fields, str):
        return fields
    if spec.problem in BY_WORD:
        return _sentence(fields)
    text, label, *others = map(_stripped, fields)
    pair = others[0] if spec.text_pair is not None else ""
    group = others[-1] if spec.group is not None else ""
    if isinstance(text, list) or isinstance(pair, list) or isinstance(group, list):
        return _LIST
    if not text or (spec.text_pair is not None and not pair):
        return _EMPTY
    if label is None or label == "":
        return _UNLABELLED
    every = (text, pair or "", group or "", *(label if isinstance(label, list) else (label,)))
    if not all(map(_is_readable, every)):
        return _BROKEN
    return text, label, pair or "", group or ""


def _sentence(fields: Sequence[Value]) -> tuple[str, Value, str, str] | str:
    """The same of words and their tags: the text has the words between single spaces."""
    words, tags, *others = fields
    group = others[0] if others else ""
    if not isinstance(words, list) or not isinstance(tags, list) or isinstance(group, list):
        return "without lists of words and of tags"
    if not words:
        return _EMPTY
    if len(words) != len(tags):
        return "with another number of tags than of words"
    words = [_WHITE.sub("\u00a0", word.strip()) for word in words]
    if not all(words):
        return "with an empty word"
    if not all(map(_is_readable, (*words, *tags))):
        return _BROKEN
    return " ".join(words), tags, "", group or ""


class Words(tuple[str, ...]):
    """The words of a text that are given as a list."""


def texts_in(fields: Fields, *, by_word: bool = False) -> tuple[str, ...] | str:
    """The texts of a row without a label, or its words if these may be given; or why none."""
    if isinstance(fields, str):
        return fields
    if by_word and isinstance(fields[0], list):
        words = Words(_WHITE.sub("\u00a0", word.strip()) for word in fields[0])
        return words if words and all(words) and all(map(_is_readable, words)) else _EMPTY
    texts = [text for text in map(_stripped, fields) if isinstance(text, str) and text]
    if len(texts) < len(fields):
        return _LIST if any(isinstance(field, list) for field in fields) else _EMPTY
    return tuple(texts) if all(map(_is_readable, texts)) else _BROKEN


def _stripped(field: Value) -> Value:
    return field.strip() if isinstance(field, str) else field


def _is_readable(text: str) -> bool:
    return text.isprintable() or not _UNREADABLE.search(text)


def training_tables(spec: DataSpec) -> tuple[Records, Records | None]:
    """The tables of the training and, where there are any, of the validation examples. InputError:
    they don't exist, or can't be read."""
    parts = _parts(spec)
    train = _part(spec, parts, TRAIN)
    if train is None:
        raise InputError(
            f"--data {spec.path}: has no part train and no file {TRAIN}.csv (.tsv, .jsonl, "
            ".parquet); name a file, or a folder that has one"
        )
    if spec.validation is not None:
        return train, _table(Path(spec.validation), "--validation")
    return train, _part(spec, parts, VALIDATION)


def test_table(spec: DataSpec) -> Records:
    """The table of the test examples, which nothing else reads. InputError: there are none, or they
    can't be read."""
    if spec.test is not None:
        return _table(Path(spec.test), "--test")
    table = _part(spec, _parts(spec), TEST)
    if table is None:
        raise InputError(f"--data {spec.path}: has no test examples; name a file with --test FILE")
    return table


def _parts(spec: DataSpec) -> list[tuple[str, Path | Records]]:
    """The parts of a data set, with their names; files are not opened yet."""
    if spec.is_on_hub:
        return [*arrow.from_hub(spec.path, spec.config).items()]
    if spec.config is not None:
        raise InputError(f"--data-config {spec.config}: is for data sets on the hub, --data {HUB}…")
    path = Path(spec.path)
    if not is_folder(path):
        return [(TRAIN, path)]
    if any(is_file(path / name) for name in _SAVED):
        return [*arrow.saved(path).items()]
    files = [
        path / f"{name}{suffix}"
        for names in _NAMES.values()
        for name in names
        for suffix in _READERS
    ]
    files = [file for file in files if is_file(file)]
    tables = [file for file in files if file.suffix != ".txt"]  # a text file may be about them
    return [(file.stem, file) for file in tables or files]


def _part(spec: DataSpec, parts: list[tuple[str, Path | Records]], side: str) -> Records | None:
    files = [part for name, part in parts if name in _NAMES[side]]
    if len(files) > 1:
        names = " and ".join(part.name for part in files)
        raise InputError(
            f"--data {spec.path}: {names} are there; name one by --data or --validation"
        )
    return _table(files[0], "--data") if files else None


def table_of_texts(file: Path) -> Records:
    """The table of a file whose texts have no labels: `.txt` with a text on each line, or a format
    of examples. InputError: it doesn't exist, or can't be read."""
    own = {".txt": plain_texts, ".jsonl": json_lines, ".json": json_lines}
    return _read(file, str(file), _READERS | own)


def _table(file: Path | Records, flag: str) -> Records:
    return file if isinstance(file, Records) else _read(file, f"{flag} {file}", _READERS)


def _read(file: Path, name: str, readers: Mapping[str, Callable[[Path], Records]]) -> Records:
    if not is_file(file):
        reason = "is a folder; name a file" if is_folder(file) else "there is no such file"
        raise InputError(f"{name}: {reason}")
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise InputError(
            f"{name}: its format is not known by its suffix; known: {', '.join(readers)}"
        )
    return reader(file)
