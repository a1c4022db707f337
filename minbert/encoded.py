"""Texts as token ids. Free of torch and of the tokenizers library."""

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

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text, [N]."""
        return np.diff(self.offsets)
