"""Tables in Parquet, saved by Hugging Face `datasets`, and on the Hugging Face hub.

By pyarrow and datasets, the extra `data`. Only the columns in use are read, a batch at a time. A
small file can stand for any number of values, by compression or by repeating one, so what is read
is counted, and memory is limited while a library reads.
"""

import json
import logging
import os
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Final

import psutil

from bench.common.errors import InputError, cause_of
from bench.common.files import below
from bench.examples.records import LONGEST, Fields, Records, fields_of
from bench.plan.dataset import HUB
from minbert.files import is_file, is_folder

_BATCH: Final = 10_000
_BATCH_BYTES: Final = 2**26
_EXPANSION: Final = 200
"""How many times the size of its file a table may have; texts are compressed to a tenth."""
_SMALL: Final = 2**28  # bytes that any table may have
_ROOM: Final = 2**29
"""Bytes of memory that one step of reading may take, besides those for the files' own size."""
_PER_BYTE: Final = 4
"""Bytes of memory for each byte of the files: a character of a text takes up to four."""
_PATIENCE_S: Final = 10
Count = Callable[[int], None]
"""Adds to the bytes that were read of a table, and refuses too many."""


def parquet(path: Path) -> Records:
    """A table in a Parquet file. InputError: no Parquet file, or pyarrow is missing."""
    library = _library("pyarrow.parquet", str(path))

    def batches(columns: Sequence[str], count: Count) -> Iterator[Any]:
        inside = tuple(f"{name}." for name in columns)
        with library.ParquetFile(path) as file:
            leaves = enumerate(map(file.schema.column, range(len(file.schema))))
            read = {n: x for n, x in leaves if x.path in columns or x.path.startswith(inside)}
            groups = map(file.metadata.row_group, range(file.num_row_groups))
            parts = [group.column(n) for group in groups for n in read]
            size = sum(each.total_uncompressed_size for each in parts)
            count(max(size, 8 * sum(each.num_values for each in parts)))  # 8: besides its text
            rows = _BATCH_BYTES * file.metadata.num_rows // max(size, 1)
        texts = [leaf.path for leaf in read.values() if leaf.physical_type == "BYTE_ARRAY"]
        with library.ParquetFile(path, read_dictionary=texts) as file:
            rows = min(max(rows, 1), _BATCH)
            yield from file.iter_batches(rows, columns=columns, use_threads=False)

    with _errors_named(path):
        return _table(str(path), library.read_schema(path), batches, path.stat().st_size)


def saved(folder: Path) -> dict[str, Records]:
    """The tables of a folder that was saved by `save_to_disk`, by the names of its parts.
    InputError: a folder that can't be read, or `datasets` is missing."""
    datasets = _datasets(str(folder))
    with _errors_named(folder):
        _check_mapped(folder)
        loaded = datasets.load_from_disk(str(folder))
        return _tables(loaded if isinstance(loaded, dict) else {"train": loaded}, str(folder))


def _check_mapped(folder: Path) -> None:
    """Read the Arrow files of a saved folder as `datasets` will, under the limit of memory:
    compressed ones, which it never writes, take all that they stand for. No thread starts here:
    under the limit, that could fail and never return."""
    arrow, all_parts = import_module("pyarrow"), folder / "dataset_dict.json"
    splits = json.loads(all_parts.read_text())["splits"] if is_file(all_parts) else ()
    states = [
        state
        for name in ("", *splits)
        if is_file(state := below(folder, *filter(None, [name])) / "state.json")
    ]
    files = [
        below(state.parent, file["filename"])
        for state in states
        for file in json.loads(state.read_text())["_data_files"]
    ]
    with _limited_memory(_size(files)):
        alone = arrow.ipc.IpcReadOptions(use_threads=False)
        _ = [
            arrow.ipc.open_stream(arrow.memory_map(str(f)), options=alone).read_all() for f in files
        ]


def _size(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in {file.resolve() for file in files})


def from_hub(path: str, config: str | None) -> dict[str, Records]:
    """The tables of a data set on the hub, by the names of its parts; fetched if need be.
    InputError: no such data set or configuration, no network, or `datasets` is missing.

    No code of the data set runs: from version 4 `datasets` has no means to.

    Args:
        path: `hub:user/name`; `@` and a branch, tag or commit after it choose a version.
        config: the configuration, of a data set with several.
    """
    datasets = _datasets(path)
    repository, _, revision = path.removeprefix(HUB).partition("@")
    if is_folder(repository):  # datasets would read that
        raise InputError(f"{path}: is no name on the hub, or hidden by a folder of that name here")
    with _errors_named(path, "; are the name, --data-config and the network right?"):
        parts = datasets.load_dataset(repository, config, revision=revision or None)
        files = [file["filename"] for split in parts.values() for file in split.cache_files]
    commit = Path(files[0]).parent.name if files else ""
    with suppress(OSError, ValueError, RuntimeError):  # without a network
        api = import_module("huggingface_hub").HfApi()
        info = api.dataset_info(repository, revision=revision or None, timeout=_PATIENCE_S)
        revision = info.sha or revision
    if not commit.startswith(revision):  # datasets falls back on any version that it has
        raise InputError(
            f"{path}: this version can't be fetched now, and on this machine is only another: "
            f"{HUB}{repository}@{commit} takes that"
        )
    return _tables(parts, path, (f"{path}: commit {commit}",))


def _tables(parts: Any, name: str, notes: tuple[str, ...] = ()) -> dict[str, Records]:
    def table(side: str, part: Any) -> Records:
        def batches(columns: Sequence[str], _: Count) -> Iterator[Any]:
            return iter(part.select_columns(columns).with_format("arrow").iter(_BATCH))

        size = _size(Path(file["filename"]) for file in part.cache_files)
        return _table(f"{name}, {side}", part.features.arrow_schema, batches, size, notes)

    return {side: table(side, part) for side, part in parts.items()}


def _table(
    name: str,
    schema: Any,
    batches: Callable[[Sequence[str], Count], Iterator[Any]],
    size: int,
    notes: tuple[str, ...] = (),
) -> Records:
    """A table of files of `size` bytes; `batches` reads columns, and counts the bytes to read."""
    class_names = _class_names(schema)
    most = max(_SMALL, _EXPANSION * size)

    def read(wanted: Sequence[str]) -> Iterator[tuple[int, Fields]]:
        number = total = 0

        def count(more: int) -> None:
            nonlocal total
            total += more
            if total > most:
                raise ValueError(f"{size:,} bytes stand for over {most:,}, so this is no data set")

        with _errors_named(name):
            source = batches(list(dict.fromkeys(wanted)), count)
            while True:
                with _limited_memory(size):
                    if (batch := next(source, None)) is None:
                        return
                    columns = [
                        _with_names(_values(batch.column(column), count), class_names.get(column))
                        for column in wanted
                    ]
                for values in zip(*columns, strict=True):
                    number += 1
                    yield number, fields_of(values)

    return Records(name, tuple(schema.names), read, "record", class_names, notes)


def _values(array: Any, count: Count) -> list[Any]:
    """The values of an array; those that share an entry of its dictionary are one object."""
    if hasattr(array, "chunks"):
        return [value for chunk in array.chunks for value in _values(chunk, count)]
    if hasattr(array, "value_lengths"):
        flat = iter(_values(array.flatten(), count))
        lengths = array.value_lengths().to_pylist()
        return [None if length is None else [*islice(flat, length)] for length in lengths]
    if hasattr(array, "dictionary"):
        known = array.dictionary.to_pylist()
        values = [None if index is None else known[index] for index in array.indices.to_pylist()]
    else:
        known = values = array.to_pylist()
    if any(isinstance(value, str) and len(value) > LONGEST for value in known):
        raise ValueError(f"a text has over {LONGEST:,} characters")
    count(sum(len(value) for value in values if isinstance(value, str)))
    return values


def _class_names(schema: Any) -> dict[str, tuple[str, ...]]:
    """The names of classes that `datasets` writes into a schema, by column."""
    names = {}
    with suppress(AttributeError, LookupError, RecursionError, TypeError, ValueError):
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        for column, feature in features.items():
            one = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
            if one.get("_type") == "ClassLabel":
                names[column] = tuple(map(str, one["names"]))
    return names


def _with_names(values: list[Any], names: tuple[str, ...] | None) -> list[Any]:
    """Values with names for indices of classes; an index without a name stays."""
    if names is None:
        return values
    by_index = {-1: None, **dict(enumerate(names))}  # -1: a class that is not public

    def named(value: Any) -> Any:
        return [*map(named, value)] if isinstance(value, list) else by_index.get(value, value)

    return [*map(named, values)]


@contextmanager
def _limited_memory(size: int) -> Iterator[None]:
    """Limits the private memory that a step of reading files of `size` bytes takes, of which a
    mapped file takes none, where Linux counts it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = getattr(psutil.Process().memory_info(), "data", 0)  # 0 or missing on other systems
    if not most:
        yield
        return
    most += _ROOM + _PER_BYTE * size
    limits = [limit for limit in (soft, most) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    except MemoryError as error:
        raise ValueError(
            f"{size:,} bytes take over {(_ROOM + _PER_BYTE * size) / 2**20:,.0f} MiB of memory at "
            "once; write the texts as CSV or JSON lines"
        ) from error
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@contextmanager
def _errors_named(name: Path | str, hint: str = "") -> Iterator[None]:
    try:
        yield
    except Exception as error:  # pyarrow and datasets raise their own, and those of others
        raise InputError(f"{name}: can't be read ({cause_of(error)}){hint}") from error


def _library(module: str, name: str) -> Any:
    # pyarrow reads it when it is imported; its other pools reserve 1 GiB, which no limit reaches
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"{name}: reading this takes the extra 'data': pip install -e '.[data]'"
        ) from error


def _datasets(name: str) -> Any:
    datasets = _library("datasets", name)
    datasets.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its errors say all that matters
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets
