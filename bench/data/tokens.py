"""The examples of cells as token ids: made once, and mapped by every worker from then on.

They lie in the user's cache folder, in a file for each set of examples, vocabulary and length. Its
name is a digest of all that decides its content, the source files among it: where those have
changed, no file is found, and who needs one has to look at the examples again.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.common.files import write_atomically
from bench.plan.cell import Cell, Row, digest
from minbert.assets.embedded import cache_folder
from minbert.data import mapped
from minbert.data.encoded import Encoded
from minbert.data.tasks import Data, Examples, Task, TaskData, source_files, task_of_piece
from minbert.errors import InputError as MinbertInputError
from minbert.files import CONFIG, is_file, vocabulary_digest
from minbert.model.config import BertConfig

FORMAT: Final = 2
MOST_FILES: Final = 64
"""Files that are kept; one of 10,000 sentences has 1.5 MB."""

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
_DATA: Final = "data_digest"
_LEAST_SHARE: Final = 0.001


@dataclass(frozen=True)
class TokenisedExamples:
    """N examples as token ids, with their labels [N] as the task gives them."""

    encoded: Encoded
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.labels)


Sides = tuple[TokenisedExamples, TokenisedExamples]
"""Those for training, and those for dev."""


def share(data: Data, cell: Cell, tokenizer: Path, folder: Path | None) -> None:
    """Leave the files that the workers of cells like this one map, unless they are there.

    Where that can't be done nothing happens: each of them makes its own then, and tells what is
    wrong.

    Args:
        data: the cell's examples.
        tokenizer: the folder with the vocabulary.
        folder: that of the task's files, if it is no embedded one.
    """
    for piece, of in data.pieces().items():
        path = _path(cell, tokenizer, folder, piece)
        if path is not None and not is_file(path):
            try:
                _keep(path, tokenise(of, tokenizer, cell.max_length), data.digest)
            except BaseException as error:
                if not _comes_of_tokenising(error):
                    raise


def _comes_of_tokenising(error: BaseException) -> bool:
    """Whether an error may be the library's; what that raises has no narrower name."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def cut_columns(encoded: Iterable[Encoded]) -> Row:
    """The columns on the texts that are cut."""
    texts, share = _cut(encoded)
    return {"texts_cut": texts, "tokens_cut": share}


def _cut(encoded: Iterable[Encoded]) -> tuple[int, float]:
    """How many texts are cut, and the share of all tokens that they lose.

    A pair in one sequence is one text, and special tokens count, as in `tokens_total`.
    """
    texts = lost = kept = 0
    for of in encoded:
        if of.cut is not None:
            texts += int(np.count_nonzero(of.cut))
            lost += int(of.cut.sum())
        kept += len(of.input_ids)
    return texts, lost / max(1, lost + kept)


def cut_notes(data: Data, cell: Cell, tokenizer: Path, folder: Path | None) -> Iterator[str]:
    """A note on the texts that are cut, if there are any, and nothing where that can't be found
    out. The files are made, as by `share`, when the note is asked for.

    Args:
        data, cell, tokenizer, folder: as of `share`.
    """
    try:
        sides = [
            side.encoded
            for piece in data.pieces()
            for side in read(cell, tokenizer, folder, piece)
            or make(data, cell, tokenizer, folder, piece)
        ]
    except BaseException as error:
        if not _comes_of_tokenising(error):
            raise
        return
    texts, lost = _cut(sides)
    if texts:
        shown = f"{lost:.1%}" if lost >= _LEAST_SHARE else "under 0.1%"
        yield (
            f"max_length {cell.max_length} cuts {texts:,} of {sum(map(len, sides)):,} texts, and "
            f"{shown} of all tokens with them"
        )


def read(cell: Cell, tokenizer: Path, folder: Path | None, piece: str = "") -> Sides | None:
    """The examples of a cell, mapped from their file; None without one that is whole and right.

    Args:
        piece: which of `minbert.data.tasks.pieces_of` its task.
    """
    path = _path(cell, tokenizer, folder, piece)
    if path is None or not is_file(path):
        return None
    rows = None
    try:
        if is_file(tokenizer / CONFIG):
            rows = BertConfig.from_folder(tokenizer).vocab_size
        arrays, notes = mapped.read(path)
        if not notes.get(_DATA, "").startswith(cell.data_digest):
            raise ValueError("it is of other examples")
        task = task_of_piece(cell.task, piece)
        train, dev = (_checked(arrays, side, task, cell.max_length, rows) for side in _SIDES)
    except (OSError, ValueError, MinbertInputError):
        return None
    return train, dev


def make(data: Data, cell: Cell, tokenizer: Path, folder: Path | None, piece: str = "") -> Sides:
    """Tokenise the examples of a cell, and leave their file for others if that can be done.

    Args:
        piece: as of `read`.

    Raises:
        InputError: of `minbert`, for a vocabulary that can't be used.
    """
    made = tokenise(data.pieces()[piece], tokenizer, cell.max_length)
    path = _path(cell, tokenizer, folder, piece)
    if path is not None:
        _keep(path, made, data.digest)
    return made


def tokenise(data: TaskData, tokenizer: Path, max_length: int) -> Sides:
    """Train and dev as token ids.

    Raises:
        InputError: of `minbert`, for a vocabulary that can't be used.
    """
    from minbert.data.tokenizer import (
        Tokenizer,  # not before: a worker that maps its tokens needs none
    )

    of = Tokenizer.from_folder(tokenizer)

    def encoded(examples: Examples) -> TokenisedExamples:
        found = of.encode(examples.text_a, examples.text_b, max_length)
        return TokenisedExamples(found, examples.labels)

    return encoded(data.train), encoded(data.dev)


def _path(cell: Cell, tokenizer: Path, folder: Path | None, piece: str) -> Path | None:
    """The file of a piece of a cell's examples; None where what it is made from can't be read."""
    try:
        decides = [
            FORMAT,
            metadata.version("tokenizers"),
            cell.data_digest,
            cell.max_length,
            vocabulary_digest(tokenizer),
            *_digests((*_CODE, *source_files(cell.task, folder))),
            *([piece] if piece else []),
        ]
    except (OSError, MinbertInputError, metadata.PackageNotFoundError):
        return None
    return cache_folder() / "tokens" / f"{digest(decides, 32)}.safetensors"


def _digests(paths: Iterable[Path]) -> list[str]:
    found = []
    for path in paths:
        with path.open("rb") as file:
            found.append(hashlib.file_digest(file, "sha256").hexdigest())
    return found


def _keep(path: Path, sides: Sides, data_digest: str) -> None:
    """Put examples into a file, whole or not at all. Without space or rights there is none."""
    arrays = {
        f"{side}_{name}": array
        for side, of in zip(_SIDES, sides, strict=True)
        for name, array in {**vars(of.encoded), _LABELS: of.labels}.items()
        if name in _TYPES or name == _LABELS
    }
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, mapped.to_bytes(arrays, {_DATA: data_digest}))
        _make_room(path)


def _make_room(kept: Path) -> None:
    """Remove the oldest files above `MOST_FILES`. Who has mapped one keeps what it has."""
    others = [path for path in kept.parent.glob("*.safetensors") if path != kept]
    ages = []
    for path in others:
        with suppress(OSError):
            ages.append((path.stat().st_mtime, path))
    for _, path in sorted(ages)[: max(0, len(ages) - MOST_FILES + 1)]:
        path.unlink(missing_ok=True)


def _checked(
    arrays: mapped.Arrays, side: str, task: Task, max_length: int, rows: int | None
) -> TokenisedExamples:
    """The examples of a side, if they can be a task's.

    Args:
        rows: of the embeddings that the vocabulary was made for, if that is known.

    Raises:
        ValueError: if they can't.
    """
    found = {name: arrays.get(f"{side}_{name}") for name in (*_TYPES, _LABELS)}
    types = {**_TYPES, _LABELS: np.int64 if task.classes else np.float64}
    for name, array in found.items():
        if array is None or array.ndim != 1 or array.dtype != types[name] or not len(array):
            raise ValueError(f"its {side}_{name} is missing or of another kind")
    ids, kinds, offsets, cut, labels = (array for array in found.values() if array is not None)
    lengths = np.diff(offsets)
    fits = (
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
    known = np.isfinite(labels).all() and (
        not task.classes or (labels.min() >= 0 and labels.max() < len(task.classes))
    )
    if not fits or not known:
        raise ValueError(f"its {side} examples are none of {task.name}")
    return TokenisedExamples(Encoded(ids, kinds, offsets, cut), labels)
