"""Lengths in tokens, and the `max_length` that they call for."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.examples.tokenizers import Encoder
from minbert.data.tasks import Data, Examples

STEP: Final = 8
MOST_CUT: Final = 0.01
"""The share of tokens that `max_length auto` stays below."""
_CHUNK: Final = 65_536
_SHORT: Final = 4
"""A length to which texts are cut while they are counted, so that no ids are kept."""

Lengths = NDArray[np.int64]


def token_lengths(examples: Examples, tokenizer: Encoder) -> Lengths:
    """Tokens of each text, or of each pair in one sequence, special ones included, uncut; [N]."""
    a, b = examples.text_a, examples.text_b
    lengths = [np.zeros(0, dtype=np.int64)]
    for start in range(0, len(examples), _CHUNK):
        part = slice(start, start + _CHUNK)
        encoded = tokenizer.encode(a[part], None if b is None else b[part], _SHORT)
        lengths.append(encoded.lengths + (0 if encoded.cut is None else encoded.cut))
    return np.concatenate(lengths)


def auto_max_length(lengths: Lengths, longest: int) -> int:
    """The smallest multiple of 8 that cuts under 1% of the tokens.

    Args:
        lengths: tokens of each training example, uncut.
        longest: the most tokens that the model allows, its positions: the result is no larger.
    """
    for length in range(STEP, longest, STEP):
        if share_cut(lengths, length) < MOST_CUT:
            return length
    return longest


def share_cut(lengths: Lengths, max_length: int) -> float:
    """The share of all tokens that a `max_length` cuts."""
    return float(np.maximum(lengths - max_length, 0).sum() / max(1, int(lengths.sum())))


def find_length(data: Data, tokenizer: Encoder, longest: int) -> tuple[int, str]:
    """The `max_length` that `auto` is for a task's training examples, and a note on it.

    Texts that the model reads by themselves count by themselves.
    """
    lengths = np.concatenate(
        [token_lengths(piece.train, tokenizer) for piece in data.pieces().values()]
    )
    length = auto_max_length(lengths, longest)
    return length, f"max_length auto: {length}, cuts {share_cut(lengths, length):.1%} of tokens"
