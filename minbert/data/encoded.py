"""Texts as token ids. Free of torch and of the tokenizers library."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


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
