"""The tokenizer of a checkpoint: minbert's, or the checkpoint's own by transformers."""

from pathlib import Path
from typing import TYPE_CHECKING

from bench.common.errors import InputError
from bench.plan.cell import MINBERT
from minbert.files import VOCABULARIES, is_file

if TYPE_CHECKING:
    from minbert.data.tokenizer import TextEncoder


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
