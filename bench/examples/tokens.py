"""The examples of cells as token ids: tokenised once, and mapped into memory by every worker.

The user's cache folder has a file for each task's examples, vocabulary and length. Its name is a
digest of everything that determines its content, including the source files: when they change, the
old file is no longer found, and the examples are tokenised again.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.common.files import remove_oldest, write_atomically
from bench.examples.tokenizers import tokenizer_of
from bench.plan.architectures import read_sizes
from bench.plan.cell import TRANSFORMERS, Cell, digest
from minbert.assets.cache import cache_folder
from minbert.data import mapped
from minbert.data.encoded import Encoded
from minbert.data.tasks import Data, Examples, Task, pieces_of, source_files, task_of_piece
from minbert.errors import InputError as MinbertInputError
from minbert.files import CONFIG, is_file, vocabulary_digest

FORMAT: Final = 3
MOST_FILES: Final = 64
"""Most files in the cache; one of 10,000 sentences has 1.5 MB."""

_MINBERT: Final = Path(__file__).parents[2] / "minbert"
_CODE: Final = tuple(
    _MINBERT / name for name in ("data/tokenizer.py", "files.py", "model/config.py")
)
_SIDES: Final = ("train", "dev")
_TYPES: Final = {
    "input_ids": np.int32,
    "token_type_ids": np.int8,
    "offsets": np.int64,
    "cut": np.int64,
}
_LABELS: Final = "labels"
_LABEL_TYPES: Final = {
    "classification": np.int64,
    "multi_label": np.int8,
    "regression": np.float64,
}
"""Types of labels by the kind of task."""
_DATA: Final = "data_digest"
_LEAST_SHARE: Final = 0.001


@dataclass(frozen=True)
class TokenisedExamples:
    """N examples as token ids, with their labels [N] or [N, C] as the task gives them."""

    encoded: Encoded
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.labels)


Sides = tuple[TokenisedExamples, TokenisedExamples]
"""The examples for training, and those for dev."""
Pieces = dict[str, Sides]
"""The examples of a cell by `minbert.data.tasks.pieces_of` its task."""


def share(data: Data, cell: Cell, tokenizer: Path, folder: Path | None) -> None:
    """Make the file that the workers of cells like this one map, unless it exists.

    Errors are ignored here: each worker then tokenises its examples, and reports the error.

    Args:
        data: the cell's examples.
        tokenizer: the folder with the vocabulary.
        folder: the folder of the task's files; None for an embedded task.
    """
    path = _path(cell, tokenizer, folder)
    if path is not None and not is_file(path):
        with _errors_of_tokenising_ignored():
            make(data, cell, tokenizer, folder)


@contextmanager
def _errors_of_tokenising_ignored() -> Iterator[None]:
    """Ignores errors of the library, which include its PanicException, no `Exception`."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise


def cut_columns(encoded: Iterable[Encoded]) -> dict[str, float]:
    """The columns about the texts that are cut.

    A pair in one sequence is one text, and special tokens count, as in `tokens_total`.
    """
    texts = lost = kept = 0
    for side in encoded:
        if side.cut is not None:
            texts += int(np.count_nonzero(side.cut))
            lost += int(side.cut.sum())
        kept += len(side.input_ids)
    return {"texts_cut": texts, "tokens_cut": lost / max(1, lost + kept)}


def cut_notes(
    data: Data, cell: Cell, tokenizer: Path, folder: Path | None, whose: str = ""
) -> Iterator[str]:
    """A note about the texts that are cut, if there are any and they can be tokenised.

    The file is made, as by `share`, once the note is requested.

    Args:
        data, cell, tokenizer, folder: as of `share`.
        whose: the beginning of the note.
    """
    sides: list[Encoded] = []
    with _errors_of_tokenising_ignored():
        pieces = read(cell, tokenizer, folder) or make(data, cell, tokenizer, folder)
        sides = [side.encoded for both in pieces.values() for side in both]
    texts, lost = cut_columns(sides).values()
    if texts:
        shown = f"{lost:.1%}" if lost >= _LEAST_SHARE else "under 0.1%"
        yield (
            f"{whose}max_length {cell.max_length} cuts {texts:,} of {sum(map(len, sides)):,} "
            f"texts, and {shown} of all tokens with them"
        )


def read(cell: Cell, tokenizer: Path, folder: Path | None) -> Pieces | None:
    """The examples of a cell, mapped from their file; None without a valid file."""
    path = _path(cell, tokenizer, folder)
    if path is None or not is_file(path):
        return None
    rows = None
    try:
        if is_file(tokenizer / CONFIG):
            rows = read_sizes(tokenizer).vocab_size
        arrays, notes = mapped.read(path)
        if not notes.get(_DATA, "").startswith(cell.data_digest):
            raise ValueError("it has other examples")
        pieces = {}
        for piece in pieces_of(cell.task, folder):
            task = task_of_piece(cell.task, piece, folder)
            train, dev = (
                _checked(arrays, _prefix(piece, side), task, cell.max_length, rows)
                for side in _SIDES
            )
            pieces[piece] = train, dev
    except (OSError, ValueError, MinbertInputError):
        return None
    return pieces


def make(data: Data, cell: Cell, tokenizer: Path, folder: Path | None) -> Pieces:
    """Tokenise the examples of a cell, and store them in their file if that is possible.

    Raises:
        InputError: of `minbert`, for a vocabulary that can't be used.
    """
    encode = tokenizer_of(cell.engine, tokenizer).encode  # a worker that maps its tokens needs none

    def tokenised(examples: Examples) -> TokenisedExamples:
        encoded = encode(examples.text_a, examples.text_b, cell.max_length)
        return TokenisedExamples(encoded, examples.labels)

    pieces = {
        piece: (tokenised(examples.train), tokenised(examples.dev))
        for piece, examples in data.pieces().items()
    }
    path = _path(cell, tokenizer, folder)
    if path is not None:
        _keep(path, pieces, data.digest)
    return pieces


def _path(cell: Cell, tokenizer: Path, folder: Path | None) -> Path | None:
    """The file of a cell's examples; None where its sources can't be read."""
    try:
        sources = [
            FORMAT,
            metadata.version("tokenizers"),
            cell.engine_version if cell.engine == TRANSFORMERS else "",
            cell.data_digest,
            cell.max_length,
            cell.fold,
            vocabulary_digest(tokenizer),
            *map(_digest_of_file, (*_CODE, *source_files(cell.task, folder))),
        ]
    except (OSError, MinbertInputError, metadata.PackageNotFoundError):
        return None
    return cache_folder() / "tokens" / f"{digest(sources, 32)}.safetensors"


def _prefix(piece: str, side: str) -> str:
    """The beginning of the names of the arrays of a side of a piece, in a file."""
    return f"{piece}.{side}" if piece else side


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keep(path: Path, pieces: Pieces, data_digest: str) -> None:
    """Write examples to a file, atomically; no file without space or permission."""
    arrays = {}
    for piece, sides in pieces.items():
        for side, examples in zip(_SIDES, sides, strict=True):
            columns = {name: getattr(examples.encoded, name) for name in _TYPES}
            for name, array in {**columns, _LABELS: examples.labels}.items():
                arrays[f"{_prefix(piece, side)}_{name}"] = array
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, mapped.to_bytes(arrays, {_DATA: data_digest}))
        # a process that has mapped a removed file can go on
        remove_oldest(path.parent.glob("*.safetensors"), MOST_FILES, path)


def _checked(
    arrays: mapped.Arrays, side: str, task: Task, max_length: int, rows: int | None
) -> TokenisedExamples:
    """The examples of a side, if they are valid for a task.

    Args:
        rows: number of embeddings of the model with this vocabulary; None if it is not known.

    Raises:
        ValueError: if they are not.
    """
    types = {**_TYPES, _LABELS: _LABEL_TYPES[task.kind]}
    shapes = {_LABELS: (len(task.classes),)} if task.multi_label else {}
    columns: list[NDArray[Any]] = []
    for name, kind in types.items():
        array, shape = arrays.get(f"{side}_{name}"), shapes.get(name, ())
        fits = array is not None and array.ndim == 1 + len(shape) and array.shape[1:] == shape
        if array is None or not fits or array.dtype != kind or not len(array):
            raise ValueError(f"its {side}_{name} is missing or of another kind")
        columns.append(array)
    ids, kinds, offsets, cut, labels = columns
    lengths = np.diff(offsets)
    are_texts = (
        len(ids) == len(kinds) == offsets[-1]
        and len(labels) == len(lengths) == len(cut)
        and offsets[0] == 0
        and lengths.min() >= 1
        and lengths.max() <= max_length
        and ids.min() >= 0
        and (rows is None or ids.max() < rows)
        and kinds.min() >= 0
        and kinds.max() <= 1
        and cut.min() >= 0
        and (lengths[cut > 0] == max_length).all()
    )
    are_labels = np.isfinite(labels).all() and (
        not task.classes
        or (labels.min() >= 0 and labels.max() < (2 if task.multi_label else len(task.classes)))
    )
    if not are_texts or not are_labels:
        raise ValueError(f"its {side} examples are not valid for {task.name}")
    return TokenisedExamples(Encoded(ids, kinds, offsets, cut), labels)
