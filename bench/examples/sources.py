"""Where examples are: which files, parts of a folder or data sets on the hub are for which use."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from bench.common.errors import InputError, refusals
from bench.examples import arrow
from bench.examples.records import Records
from bench.examples.spans import annotated
from bench.examples.textfiles import delimited, json_lines, plain_texts
from bench.examples.words import UNIVERSAL, conll, has_words
from bench.plan.dataset import HUB, DataSpec
from minbert.files import is_file, is_folder

_refusal: Final = refusals(__file__)
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


def training_tables(spec: DataSpec) -> tuple[Records, Records | None]:
    """The tables of the training and, where there are any, of the validation examples. InputError:
    they don't exist, or can't be read."""
    parts = _parts(spec)
    train = _part(spec, parts, TRAIN)
    if train is None:
        raise _refusal("no_train", spec=spec, train=TRAIN)
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
        raise _refusal("several_files", spec=spec, names=names)
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
        raise _refusal("unknown_suffix", name=name, known=", ".join(readers))
    return reader(file)
