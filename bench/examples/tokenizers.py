"""The tokenizer of an engine: that of minbert, or a checkpoint's own by transformers."""

from pathlib import Path
from typing import TYPE_CHECKING

from bench.common.errors import InputError
from bench.plan.cell import MINBERT

if TYPE_CHECKING:
    from minbert.data.tokenizer import TextEncoder


def tokenizer_of(engine: str, folder: Path) -> "TextEncoder":
    from minbert.data.tokenizer import Tokenizer

    return Tokenizer.from_folder(folder) if engine == MINBERT else fast_tokenizer(folder)


def fast_tokenizer(folder: Path) -> "TextEncoder":
    """A checkpoint's own fast tokenizer. InputError if transformers can't load it, or it is a slow
    one."""
    from transformers import AutoTokenizer

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
