"""Where examples are: which files, parts of a folder or data sets on the hub are for which use."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bench.common.errors import InputError
from bench.examples import arrow, decoding, delimited, jsonfiles
from bench.examples.table import Table
from bench.plan.dataset import HUB, DataSpec
from minbert.data.tasks import TASKS
from minbert.files import is_file, is_folder

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_NAMES: Final = {
    TRAIN: ("train",),
    VALIDATION: ("validation", "valid", "val", "dev"),
    TEST: ("test",),
}
"""Names of files in a folder, without their suffixes."""
_SUFFIXES: Final = (*delimited.DELIMITERS, *jsonfiles.JSON, *arrow.PARQUET)
_KINDS: Final = ".csv, .tsv, .txt, .jsonl, .ndjson, .json (each also .gz) and .parquet"


def training_tables(spec: DataSpec) -> tuple[Table, Table | None]:
    """The tables of the training and, where there are any, of the validation examples.

    Raises:
        InputError: they don't exist, or can't be read.
    """
    tables = _tables(spec, (TRAIN, VALIDATION))
    if TRAIN not in tables:
        raise InputError(
            f"--data {spec.path}: the folder has no train.csv (.tsv, .jsonl, .parquet), and was "
            "not saved by datasets; name a file, or such a folder"
        )
    validation = tables.get(VALIDATION)
    if spec.validation is not None:
        validation = _table(spec.validation, "--validation")
    return tables[TRAIN], validation


def test_table(spec: DataSpec) -> Table:
    """The table of the test examples, which nothing else reads.

    Raises:
        InputError: there are none, or they can't be read.
    """
    if spec.test is not None:
        return _table(spec.test, "--test")
    tables = _tables(spec, (TEST,)) if spec.is_on_hub or is_folder(spec.path) else {}
    if TEST not in tables:
        raise InputError(f"--data {spec.path}: has no test examples; name a file by --test FILE")
    return tables[TEST]


def course_tasks(folder: Path) -> tuple[str, ...]:
    """The tasks in the course's format whose files are all in a folder."""
    return tuple(
        name
        for name, task in TASKS.items()
        if task.files and all(is_file(folder / file) for file in task.files)
    )


def _tables(spec: DataSpec, sides: Iterable[str]) -> dict[str, Table]:
    """The tables for some uses, by use."""
    if spec.is_on_hub:
        return arrow.from_hub(spec.path.removeprefix(HUB), spec.config)
    if spec.config is not None:
        raise InputError(f"--data-config {spec.config}: is for data sets on the hub, --data {HUB}…")
    path = Path(spec.path)
    if not is_folder(path):
        return {TRAIN: _table(spec.path, "--data")}
    if arrow.is_saved(path):
        return arrow.saved(path)
    tables = {}
    for side in sides:
        files = [
            path / f"{name}{suffix}{packed}"
            for name in _NAMES[side]
            for suffix in _SUFFIXES
            for packed in ("", decoding.GZIP)
            if is_file(path / f"{name}{suffix}{packed}")
        ]
        if len(files) > 1:
            names = " and ".join(file.name for file in files)
            raise InputError(
                f"--data {path}: {names} are there; name one by --data or --validation"
            )
        if files:
            tables[side] = _table(str(files[0]), "--data")
    return tables


def _table(name: str, flag: str) -> Table:
    path = Path(name)
    if not is_file(path):
        reason = "is a folder; name a file" if is_folder(path) else "there is no such file"
        raise InputError(f"{flag} {name}: {reason}")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    is_packed = suffixes[-1:] == [decoding.GZIP]
    suffix = "".join(suffixes[:-1][-1:] if is_packed else suffixes[-1:])
    if suffix in delimited.DELIMITERS:
        return delimited.delimited(path, suffix)
    if suffix in jsonfiles.JSON:
        return jsonfiles.json_records(path)
    if suffix in arrow.PARQUET and not is_packed:
        return arrow.parquet(path)
    raise InputError(f"{flag} {name}: its format is not known by its suffix; known: {_KINDS}")
