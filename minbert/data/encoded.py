"""Texts as token ids, and arrays in a file that several processes map into memory.

That is a safetensors file with a SHA-256 of its content among its notes: it is checked when it is
read, so that any change by a disk, a crash or a person is noticed before its numbers are used. Free
of torch and of the tokenizers library.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Notes = dict[str, str]

_DIGEST: Final = "sha256"
_TYPES: Final = {
    "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64, "F64": np.float64,
}  # fmt: skip
_BEFORE_HEADER: Final = 8  # bytes that hold the length of the header, little-endian


@dataclass(frozen=True)
class Encoded:
    """Token ids of N texts, pairs of texts, or windows over texts, end to end: T tokens in all.

    Text n has the tokens from `offsets[n]` up to `offsets[n + 1]`; none is padding.
    """

    input_ids: NDArray[np.int32]  # [T]
    token_type_ids: NDArray[np.int8]  # [T], 1 in the second text of a pair and its [SEP]
    offsets: NDArray[np.int64]  # [N + 1]
    cut: NDArray[np.int64] | None = None  # [N], tokens cut from each text; None: not counted
    words: NDArray[np.int32] | None = None
    """[T], the number within its text of the word that a token is the first piece of; -2 at further
    pieces, and in all windows but the one in which it is read; -1 at special tokens. None: texts
    are not read word by word."""
    text_of: NDArray[np.int64] | None = None
    """[N], the text of each window, in ascending order. None: there are no windows."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def taken(self, indices: NDArray[np.int64]) -> "Encoded":
        """The texts at some indices, in ascending order where there are windows."""
        text_of = self.text_of
        if text_of is not None:
            windows = np.flatnonzero(np.isin(text_of, indices))
            indices, text_of = windows, np.searchsorted(indices, text_of[windows])
        lengths = self.lengths[indices]
        ends = np.cumsum(lengths)
        starts = np.repeat(self.offsets[indices] - (ends - lengths), lengths)
        places = starts + np.arange(int(lengths.sum()))
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), ends])
        cut = None if self.cut is None else self.cut[indices]
        words = None if self.words is None else self.words[places]
        ids, types = self.input_ids[places], self.token_type_ids[places]
        return Encoded(ids, types, offsets, cut, words, text_of)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def held_out(self, share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of the texts to train on, and of a share that is held out, by digest of their
        tokens: the same texts whatever the seed, with equal texts together."""
        bounds = self.offsets
        if self.text_of is not None:
            bounds = bounds[np.searchsorted(self.text_of, np.arange(self.text_of.max() + 2))]
        ends = pairwise(bounds)
        digests = [
            hashlib.sha256(self.input_ids[begin:end].astype("<i4").tobytes()).digest()[:8]
            for begin, end in ends
        ]
        keys = np.array([int.from_bytes(digest) for digest in digests], dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        count = round(share * len(keys))
        return np.sort(order[count:]), np.sort(order[:count])


def in_one(first: Encoded, second: Encoded, max_length: int) -> Encoded:
    """N pairs as `[CLS] a [SEP] b [SEP]`, of texts that stand alone as `[CLS] a [SEP]` and `[CLS] b
    [SEP]`, in at most `max_length` tokens.

    They are cut as the tokenizer cuts pairs, except that where both texts were cut before, an odd
    token may be kept in the other text.
    """
    room = max_length - 3
    ids: list[NDArray[np.int32]] = []
    lengths: list[tuple[int, int]] = []
    for n in range(len(first)):
        a = first.input_ids[first.offsets[n] : first.offsets[n + 1]]
        b = second.input_ids[second.offsets[n] : second.offsets[n + 1]]
        kept_a, kept_b = kept_of_pair(len(a) - 2, len(b) - 2, room)
        ids += [a[: kept_a + 1], a[-1:], b[1 : kept_b + 1], b[-1:]]
        lengths.append((kept_a + 2, kept_b + 1))
    sizes = np.array(lengths, dtype=np.int64).reshape(-1, 2)  # [N, 2]
    kinds = np.tile(np.array([0, 1], dtype=np.int8), len(sizes))
    return Encoded(
        np.concatenate([*ids, np.empty(0, dtype=np.int32)]),
        np.repeat(kinds, sizes.ravel()),
        np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes.sum(axis=1))]),
    )


def kept_of_pair(a: int, b: int, room: int) -> tuple[int, int]:
    """The number of tokens that each of two texts keeps: the longer one is cut first, then both."""
    if a + b <= room:
        return a, b
    shorter = min(a, b)
    longer = max(shorter, room - shorter)
    if shorter + longer > room:
        shorter = room // 2
        longer = room - shorter
    return (shorter, longer) if a <= b else (longer, shorter)


def array_bytes(arrays: Mapping[str, NDArray[Any]], notes: Mapping[str, str]) -> bytes:
    """The content of a file for `read_arrays`, from arrays of int8 to int64 or float64 and any
    texts, except one called `sha256`."""
    from safetensors.numpy import save

    kept = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return bytes(save(kept, {**notes, _DIGEST: _digest_of(kept, notes)}))


def read_arrays(path: Path) -> tuple[Arrays, Notes]:
    """The arrays of a file, which are read-only views of it, and its notes. OSError if the file
    can't be read. ValueError if its content is not as it was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:  # checks the header
            notes: Notes = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    data = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    begin = _BEFORE_HEADER + int.from_bytes(data[:_BEFORE_HEADER].tobytes(), "little")
    header = json.loads(data[_BEFORE_HEADER:begin].tobytes())
    header.pop("__metadata__", None)
    arrays: Arrays = {}
    for name, entry in header.items():
        if entry["dtype"] not in _TYPES:
            raise ValueError(f"its {name} is of another type")
        first, end = (begin + offset for offset in entry["data_offsets"])
        arrays[name] = data[first:end].view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
    if notes.pop(_DIGEST, None) != _digest_of(arrays, notes):
        raise ValueError("its content is not what was written")
    return arrays, notes


def _digest_of(arrays: Mapping[str, NDArray[Any]], notes: Mapping[str, str]) -> str:
    """SHA-256 of names, types, shapes, numbers and notes."""
    digest = hashlib.sha256(json.dumps(sorted(notes.items())).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
