"""The tokenizer of an engine: that of minbert, or a checkpoint's own by transformers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.common.errors import InputError
from bench.plan.cell import MINBERT
from minbert.data.encoded import Encoded


class Encoder(Protocol):
    """A tokenizer."""

    def encode(
        self, text_a: Sequence[str], text_b: Sequence[str] | None, max_length: int
    ) -> Encoded:
        """Token ids of texts, or of pairs, as `minbert.data.tokenizer.Tokenizer.encode`."""


def tokenizer_of(engine: str, folder: Path) -> Encoder:
    """The tokenizer of the checkpoint in a folder, for an engine.

    Raises:
        InputError: if there is none that can be used.
    """
    from minbert.data.tokenizer import Tokenizer

    return Tokenizer.from_folder(folder) if engine == MINBERT else FastTokenizer(folder)


class FastTokenizer:
    """A checkpoint's own fast tokenizer, without its padding and truncation."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # of many kinds, by the tokenizer's class
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{folder}: transformers can't load its tokenizer: {reason}"
            ) from error
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(
                f"{folder}: its tokenizer, {type(tokenizer).__name__}, has no fast version "
                "(tokenizer.json), which engine transformers needs; take another checkpoint"
            )
        self.tokenizer = tokenizer
        self._backend: Any = tokenizer.backend_tokenizer
        self._backend.no_padding()
        self._backend.no_truncation()

    @property
    def largest_id(self) -> int:
        """The largest token id."""
        return max(self._backend.get_vocab().values(), default=0)

    def encode(
        self, text_a: Sequence[str], text_b: Sequence[str] | None, max_length: int
    ) -> Encoded:
        """As `minbert.data.tokenizer.Tokenizer.encode`."""
        from minbert.data.tokenizer import encode_batch

        encoded = encode_batch(self._backend, text_a, text_b, max_length)
        return replace(encoded, token_type_ids=np.minimum(encoded.token_type_ids, 1))
