"""The examples of cells as token ids: tokenised once, and mapped into memory by every worker. Their
lengths in tokens, and the `max_length` that these call for.

The user's cache folder has a file for each task's examples, vocabulary and length. Its name is a
digest of everything that determines its content, including the source files: when they change, the
old file is no longer found, and the examples are tokenised again.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import InputError
from bench.common.files import remove_oldest, write_atomically
from bench.plan.cell import MINBERT, Cell, digest
from minbert.assets.cache import cache_folder
from minbert.data.encoded import Arrays, Encoded, array_bytes, read_arrays
from minbert.data.tasks import Data, Examples, source_files
from minbert.data.tasks.splitting import DEV, TRAIN
from minbert.data.words import ENTITIES
from minbert.files import VOCABULARIES, is_file, sha256_of, vocabulary_digest

if TYPE_CHECKING:
    from minbert.data.tokenizer import TextEncoder

MOST_FILES: Final = 64
"""Most files in the cache; one of 10,000 sentences has 1.5 MB."""

_ROOT: Final = Path(__file__).parents[2]
_CODE: Final = tuple(
    _ROOT / name
    for name in (
        "bench/examples/tokens.py",
        "minbert/data/encoded.py",
        "minbert/data/tokenizer.py",
        "minbert/files.py",
        "minbert/model/config.py",
    )
)
_COLUMNS: Final = ("input_ids", "token_type_ids", "offsets", "cut")
"""Fields of `Encoded`, in their order."""
_LABELS: Final = "labels"
_DOCUMENTS: Final = "documents"
_OF_WORDS: Final = ("words", "text_of")
"""The same, of texts read word by word; the last, if they are read in windows."""
_DATA: Final = "data_digest"
_PIECES: Final = "pieces"  # the note with the names of the pieces, in their order
LENGTH_STEP: Final = 8
MOST_CUT: Final = 0.01
"""The share of tokens that `max_length auto` stays below."""
_CHUNK: Final = 65_536
_VERSION: Final = metadata.version("transformers") if find_spec("transformers") else ""


@dataclass(frozen=True)
class TokenisedExamples:
    """N examples as token ids, with their labels and documents as the task gives them."""

    encoded: Encoded
    labels: NDArray[Any]
    documents: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def words_lost(self) -> int:
        """The number of words with labels that have no token: they are cut or empty."""
        words = self.encoded.words
        return 0 if words is None else int((self.labels >= 0).sum() - (words >= 0).sum())


Sides = tuple[TokenisedExamples, TokenisedExamples]
"""The examples for training, and those for dev."""
Pieces = dict[str, Sides]
"""The examples of a cell by the names of `Data.pieces`."""


def share(data: Data, cell: Cell, tokenizer: Path, folder: Path | None) -> None:
    """Make the file that the workers of cells like this one map, unless it exists. Errors are
    ignored here: each worker then tokenises its examples, and reports the error."""
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
    """The columns about the texts that are cut. A pair in one sequence is one text, and special
    tokens count, as in `tokens_total`."""
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
    """Notes, that begin with `whose`, on the texts that are cut, or read in windows, if there are
    any and they can be tokenised. The file is made, as by `share`, once a note is requested."""
    sides: list[Encoded] = []
    lost_words, counted = 0, "wrong"
    with _errors_of_tokenising_ignored():
        pieces = read(cell, tokenizer, folder) or make(data, cell, tokenizer, folder)
        sides = [side.encoded for both in pieces.values() for side in both]
        lost_words = sum(dev.words_lost for _, dev in pieces.values())
        if any(dev.labels.dtype == ENTITIES for _, dev in pieces.values()):
            counted = "predicted O"
    texts, lost = cut_columns(sides).values()
    windows = [np.bincount(side.text_of) for side in sides if side.text_of is not None]
    if several := [int(count) for count in chain(*windows) if count > 1]:
        are = "1 text is" if len(several) == 1 else f"{len(several):,} texts are"
        yield f"{whose}{are} read in {sum(several):,} windows of max_length {cell.max_length}"
    if texts:
        shown = f"{lost:.1%}" if lost >= 0.001 else "under 0.1%"
        yield (
            f"{whose}max_length {cell.max_length} cuts {texts:,} of {sum(map(len, sides)):,} "
            f"texts, and {shown} of all tokens with them"
        )
    if lost_words:
        are = "1 word of dev is" if lost_words == 1 else f"{lost_words:,} words of dev are"
        yield f"{whose}{are} cut or without a token, and count as {counted}"


def read(cell: Cell, tokenizer: Path, folder: Path | None) -> Pieces | None:
    """The examples of a cell, mapped from their file; None without a valid file."""
    path = _path(cell, tokenizer, folder)
    if path is None or not is_file(path):
        return None
    try:
        arrays, notes = read_arrays(path)
    except (OSError, ValueError):
        return None
    if not notes[_DATA].startswith(cell.data_digest):
        return None

    def examples(piece: str, side: str) -> TokenisedExamples:
        labels, *columns = (arrays[f"{piece}.{side}.{name}"] for name in (_LABELS, *_COLUMNS))
        of_words: list[Any] = [arrays.get(f"{piece}.{side}.{name}") for name in _OF_WORDS]
        documents = arrays.get(f"{piece}.{side}.{_DOCUMENTS}")
        return TokenisedExamples(Encoded(*columns, *of_words), labels, documents)

    names = notes[_PIECES].split(" ")
    return {piece: (examples(piece, TRAIN), examples(piece, DEV)) for piece in names}


def make(data: Data, cell: Cell, tokenizer: Path, folder: Path | None) -> Pieces:
    """Tokenise the examples of a cell, and store them in their file if that is possible. InputError
    for a vocabulary that can't be used."""
    encoder = tokenizer_of(cell.engine, tokenizer)  # a worker that maps its tokens needs none
    arrays: Arrays = {}

    def tokenised(piece: str, side: str, examples: Examples) -> TokenisedExamples:
        encoded = encode_for(cell, encoder, examples)
        columns = {name: getattr(encoded, name) for name in (*_COLUMNS, *_OF_WORDS)}
        columns |= {_LABELS: examples.labels, _DOCUMENTS: examples.documents}
        known = {name: column for name, column in columns.items() if column is not None}
        arrays.update({f"{piece}.{side}.{name}": column for name, column in known.items()})
        return TokenisedExamples(encoded, examples.labels, examples.documents)

    pieces = {
        piece: (tokenised(piece, TRAIN, both.train), tokenised(piece, DEV, both.dev))
        for piece, both in data.pieces().items()
    }
    path = _path(cell, tokenizer, folder)
    if path is not None:
        notes = {_DATA: data.digest, _PIECES: " ".join(pieces)}
        with suppress(OSError):  # without space or permission there is no file
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, array_bytes(arrays, notes))
            # a process that has mapped a removed file can go on
            remove_oldest(path.parent.glob("*.safetensors"), MOST_FILES, path)
    return pieces


def encode_for(cell: Cell, encoder: "TextEncoder", examples: Examples) -> Encoded:
    """The token ids of examples as a cell reads them."""
    a, b, length = examples.text_a, examples.text_b, cell.max_length
    stride = cell.window_stride if examples.by_word else 0
    return encoder.encode(a, b, length, by_word=examples.by_word, stride=stride)


def _path(cell: Cell, tokenizer: Path, folder: Path | None) -> Path | None:
    """The file of a cell's examples; None where its sources can't be read."""
    try:
        sources = [
            metadata.version("tokenizers"),
            cell.engine_version or _VERSION,
            cell.data_digest,
            cell.max_length,
            cell.window_stride,
            cell.fold,
            vocabulary_digest(tokenizer),
            *map(sha256_of, (*_CODE, *source_files(cell.task, folder))),
        ]
    except (InputError, metadata.PackageNotFoundError):
        return None
    return cache_folder() / "tokens" / f"{digest(sources, 32)}.safetensors"


def token_lengths(examples: Examples, encoder: "TextEncoder") -> NDArray[np.int64]:
    """Tokens of each text, or of each pair in one sequence, special ones included, uncut; [N]."""
    a, b = examples.text_a, examples.text_b
    lengths = [np.zeros(0, dtype=np.int64)]
    for start in range(0, len(examples), _CHUNK):
        part = slice(start, start + _CHUNK)
        pairs = None if b is None else b[part]
        encoded = encoder.encode(a[part], pairs, 4, by_word=examples.by_word)  # few ids are kept
        lengths.append(encoded.lengths + (0 if encoded.cut is None else encoded.cut))
    return np.concatenate(lengths)


def auto_max_length(lengths: NDArray[np.int64], longest: int) -> int:
    """The smallest multiple of 8 that cuts under 1% of the tokens of training examples of these
    lengths; at most `longest`, the model's positions."""
    for length in range(LENGTH_STEP, longest, LENGTH_STEP):
        if share_cut(lengths, length) < MOST_CUT:
            return length
    return longest


def share_cut(lengths: NDArray[np.int64], max_length: int) -> float:
    return float(np.maximum(lengths - max_length, 0).sum() / max(1, int(lengths.sum())))


def find_length(data: Data, encoder: "TextEncoder", longest: int) -> tuple[int, str]:
    """The `max_length` that `auto` is for a task's training examples, and a note on it. Texts that
    the model reads by themselves count by themselves."""
    lengths = np.concatenate(
        [token_lengths(piece.train, encoder) for piece in data.pieces().values()]
    )
    length = auto_max_length(lengths, longest)
    return length, f"max_length auto: {length}, cuts {share_cut(lengths, length):.1%} of tokens"


def tokenizer_of(engine: str, folder: Path) -> "TextEncoder":
    """The tokenizer of a checkpoint: minbert's own where its engine runs and the vocabulary is one
    of BERT, else transformers'. InputError for a vocabulary that can't be used."""
    from minbert.data.tokenizer import Tokenizer

    if engine == MINBERT and any(is_file(folder / name) for name in VOCABULARIES):
        try:
            return Tokenizer.from_folder(folder)
        except InputError as error:
            if "no BERT vocabulary" not in str(error):
                raise
    return fast_tokenizer(folder)


def fast_tokenizer(folder: Path) -> "TextEncoder":
    """A checkpoint's own fast tokenizer. InputError if transformers can't load it or it is slow."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise InputError(
            f"{folder}: its tokenizer is none of BERT's, and is loaded by transformers: "
            "pip install -e '.[transformers]'"
        ) from None
    from minbert.data.tokenizer import TextEncoder

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # of many kinds, by the tokenizer's class
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: transformers can't load its tokenizer: {reason}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{folder}: its tokenizer, {type(tokenizer).__name__}, has no fast version "
            "(tokenizer.json), which engine transformers needs; take another checkpoint"
        )
    return TextEncoder(tokenizer.backend_tokenizer, tokenizer)
