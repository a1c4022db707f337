"""Texts as token ids. Free of torch and of the tokenizers library."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Encoded:
    """Token ids of N texts, or pairs of texts, end to end: T tokens in all.

    Text n has the tokens from `offsets[n]` up to `offsets[n + 1]`; none is padding.
    """

    input_ids: NDArray[np.int32]  # [T]
    token_type_ids: NDArray[np.int8]  # [T], 1 in the second text of a pair and its [SEP]
    offsets: NDArray[np.int64]  # [N + 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def taken(self, indices: NDArray[np.int64]) -> "Encoded":
        """The texts at some indices, in their order."""
        lengths = self.lengths[indices]
        ends = np.cumsum(lengths)
        starts = np.repeat(self.offsets[indices] - (ends - lengths), lengths)
        places = starts + np.arange(int(lengths.sum()))
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), ends])
        return Encoded(self.input_ids[places], self.token_type_ids[places], offsets)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text, [N]."""
        return np.diff(self.offsets)

    def held_out(self, share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices of the texts to train on, and of a share that is not, chosen by digest of their
        tokens.

        So the same ones are held out whatever the seed, and equal texts stand together.
        """
        ends = zip(self.offsets[:-1], self.offsets[1:], strict=True)
        digests = [
            hashlib.sha256(self.input_ids[begin:end].astype("<i4").tobytes()).digest()[:8]
            for begin, end in ends
        ]
        keys = np.array([int.from_bytes(of) for of in digests], dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        count = round(share * len(self))
        return np.sort(order[count:]), np.sort(order[:count])
