"""Tables in Parquet, saved by Hugging Face `datasets`, and on the Hugging Face hub.

By pyarrow and datasets, the extra `data`. Only the columns in use are read, a batch at a time.
"""

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from bench.common.errors import InputError
from bench.common.messages import one_line
from bench.examples.table import Row, Table, Value, quoted

PARQUET: Final = (".parquet", ".pq")
_SAVED: Final = ("dataset_dict.json", "state.json")
_BATCH: Final = 10_000
_PATIENCE_S: Final = 10
_VALIDATION: Final = ("validation", "valid", "val", "dev")
_NO_LABEL: Final = -1
"""The index of examples whose class is not public."""


def parquet(path: Path) -> Table:
    """A table in a Parquet file.

    Raises:
        InputError: no Parquet file, or pyarrow is missing.
    """
    _need("pyarrow", str(path), "Parquet")
    import pyarrow as pa
    from pyarrow import parquet as pq

    def refused(error: Exception) -> InputError:
        return InputError(f"{path}: can't be read as Parquet ({one_line(str(error))})")

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise refused(error) from error

    def batches(columns: Sequence[str]) -> Iterator[Any]:
        try:
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(_BATCH, columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            raise refused(error) from error

    return _table(str(path), schema.names, batches, _features(schema.metadata))


def is_saved(folder: Path) -> bool:
    """Whether a folder was saved by Hugging Face `datasets`."""
    return any((folder / name).is_file() for name in _SAVED)


def saved(folder: Path) -> dict[str, Table]:
    """The tables of a folder that was saved by `save_to_disk`, by `train`, `validation`, `test`.

    Raises:
        InputError: a folder that can't be read, or one without a part called train; or `datasets`
            is missing.
    """
    name = str(folder)
    datasets = _datasets(name)
    try:
        found = datasets.load_from_disk(name)
    except Exception as error:
        raise InputError(f"{name}: can't be read by datasets ({_cause(error)})") from error
    return _splits(found, name)


def from_hub(name: str, config: str | None) -> dict[str, Table]:
    """The tables of a data set on the hub, by `train`, `validation`, `test`; fetched if need be.

    No code of the data set runs: from version 4 `datasets` has no means to.

    Args:
        name: `user/name`; `@` and a branch, tag or commit after it choose a version.
        config: the configuration, of a data set with several.

    Raises:
        InputError: no such data set or configuration, no network, or `datasets` is missing.
    """
    shown = f"hub:{name}"
    datasets = _datasets(shown)
    repository, _, revision = name.partition("@")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", repository):
        raise InputError(f"{shown}: is no name on the hub; give hub:USER/NAME, or a path alone")
    if Path(repository).exists():
        raise InputError(
            f"{shown}: {repository} exists here too, and datasets would read that; start in "
            f"another folder, or give --data {repository}"
        )
    try:
        found = datasets.load_dataset(
            repository, config, revision=revision or None, keep_in_memory=False
        )
    except Exception as error:
        raise InputError(f"{shown}: {_hub_reason(error)}") from error
    commit = _commit(found)
    wanted = _newest_commit(repository, revision or None) or revision
    if not commit.startswith(wanted):  # datasets falls back on any version that it has
        raise InputError(
            f"{shown}: this version can't be fetched now, and on this machine is only another: "
            f"hub:{repository}@{commit} takes that"
        )
    tables = _splits(found, shown)
    note = f"{shown}: commit {commit}"
    return {side: replace(table, notes=(note,)) for side, table in tables.items()}


def _commit(found: Any) -> str:
    """The commit of a data set from the hub, which is the name of its folder in the cache."""
    files = [file["filename"] for split in found.values() for file in split.cache_files]
    return Path(files[0]).parent.name if files else ""


def _newest_commit(repository: str, revision: str | None) -> str | None:
    """The commit of a revision on the hub; None if it can't be asked."""
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(repository, revision=revision, timeout=_PATIENCE_S).sha
    except (OSError, ValueError, RuntimeError):
        return None
    return None if commit is None else str(commit)


def _hub_reason(error: Exception) -> str:
    text = str(error)
    if "BuilderConfig" in text or "Config name is missing" in text:
        names = " ".join(text.split())[:200]
        return f"--data-config CONFIG chooses one of its configurations ({one_line(names)})"
    if "scripts are no longer supported" in text:
        return "is a script, and code from the hub is never run; give a version of it in Parquet"
    if isinstance(error, ConnectionError):
        return f"the hub can't be reached, and the set is not on this machine ({_cause(error)})"
    return f"can't be read by datasets ({_cause(error)})"


def _splits(found: Any, name: str) -> dict[str, Table]:
    if not isinstance(found, dict):
        found = {"train": found}
    splits = {"train": found.get("train"), "test": found.get("test")}
    splits["validation"] = next((found[each] for each in _VALIDATION if each in found), None)
    if splits["train"] is None:
        raise InputError(
            f"{name}: has no part called train, only {', '.join(map(quoted, found))}; save that "
            "part alone"
        )
    return {
        side: _dataset(f"{name}, {side}", split)
        for side, split in splits.items()
        if split is not None
    }


def _dataset(name: str, dataset: Any) -> Table:
    def batches(columns: Sequence[str]) -> Iterator[Any]:
        chosen = dataset.select_columns(list(columns)).with_format("arrow")
        try:
            yield from chosen.iter(_BATCH)
        except Exception as error:
            raise InputError(f"{name}: can't be read by datasets ({_cause(error)})") from error

    return _table(name, dataset.column_names, batches, dataset.features.to_dict())


def _table(
    name: str,
    columns: Iterable[str],
    batches: Callable[[Sequence[str]], Iterator[Any]],
    features: Mapping[str, Any],
) -> Table:
    class_names = {
        column: names
        for column, feature in features.items()
        if (names := _class_names(feature)) is not None
    }

    def read(wanted: Sequence[str]) -> Iterator[Row]:
        number = 0
        distinct = tuple(dict.fromkeys(wanted))
        for batch in batches(distinct):
            fields = {
                column: _values(batch.column(column), class_names.get(column), name, column)
                for column in distinct
            }
            for row in zip(*(fields[column] for column in wanted), strict=True):
                number += 1
                yield number, row

    return Table(name, tuple(columns), read, "record", class_names)


def _features(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Any]:
    """The features that `datasets` writes into the metadata of a Parquet file."""
    try:
        values = json.loads((metadata or {}).get(b"huggingface", b"{}"))
        features = values["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(feature: Any) -> tuple[str, ...] | None:
    """The classes of a feature that holds their indices, or lists of them."""
    if isinstance(feature, list) and len(feature) == 1:
        return _class_names(feature[0])
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") in ("List", "LargeList", "Sequence"):
        return _class_names(feature.get("feature"))
    names = feature.get("names")
    if feature.get("_type") != "ClassLabel" or not isinstance(names, list):
        return None
    return tuple(map(str, names))


def _values(column: Any, classes: tuple[str, ...] | None, table: str, name: str) -> list[Value]:
    """The fields of a batch of a column."""
    from pyarrow import types

    def is_plain(kind: Any) -> bool:
        if types.is_dictionary(kind):
            return is_plain(kind.value_type)
        return not (
            types.is_nested(kind)
            or types.is_binary(kind)
            or types.is_large_binary(kind)
            or types.is_fixed_size_binary(kind)
        )

    kind = column.type
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not is_plain(kind.value_type if is_list else kind):
        raise InputError(
            f"{table}: column {quoted(name)} holds values of type {one_line(str(kind))[:60]}; "
            "texts, numbers or lists of them are expected"
        )

    def text(value: Any) -> str | None:
        if value is None or value != value:
            return None
        if classes is not None and isinstance(value, int):
            if value == _NO_LABEL:
                return None
            if not 0 <= value < len(classes):
                raise InputError(
                    f"{table}: column {quoted(name)} has the class {value}, and there are names "
                    f"of {len(classes)}"
                )
            return classes[value]
        if isinstance(value, bool):
            return "true" if value else "false"
        return value if isinstance(value, str) else str(value)

    try:
        values = column.to_pylist()
    except (UnicodeDecodeError, OverflowError, ValueError) as error:
        raise InputError(f"{table}: column {quoted(name)}: {one_line(str(error))}") from error
    if is_list:
        return [
            None if value is None else [each for each in map(text, value) if each is not None]
            for value in values
        ]
    if types.is_string(kind) or types.is_large_string(kind):
        return list(values)
    return [text(value) for value in values]


def _need(module: str, name: str, what: str) -> None:
    if find_spec(module) is None:
        raise InputError(f"{name}: reading {what} takes the extra 'data': pip install -e '.[data]'")


def _datasets(name: str) -> Any:
    """The library, without its progress bars where nobody sees them."""
    _need("datasets", name, "this")
    import datasets

    datasets.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its errors say all that matters
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets


def _cause(error: BaseException) -> str:
    """The first line of an error's text."""
    return one_line(str(error).strip().partition("\n")[0] or type(error).__name__)
