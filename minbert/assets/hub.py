"""Checkpoints from the Hugging Face hub, by the hub's own library, an optional dependency."""

import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from minbert.errors import InputError, refusals
from minbert.files import (
    CONFIG,
    OTHER_VOCABULARIES,
    POOLING,
    TOKENIZER_FILES,
    VOCABULARIES,
    WEIGHTS,
)

_refusal: Final = refusals(__file__)
_CARD: Final = "README.md"
_FILES: Final = (CONFIG, *TOKENIZER_FILES, POOLING, _CARD)


def fetch_from_hub(name: str) -> Path:
    """The folder of a checkpoint on the hub, in the hub library's cache; fetched if need be.
    InputError: the extra `hub` is not installed, the hub has no such checkpoint, it can't be
    reached, or the files can't be kept.

    Only the files that an encoder is loaded from are fetched, and its card, for the licence. In
    `name`, `bert-base-uncased` or `user/model`, `@` and a branch, tag or commit choose a version.
    """
    if find_spec("huggingface_hub") is None:
        raise _refusal("extra", name=name)
    model, _, revision = name.partition("@")
    for weights in WEIGHTS:  # the second, a pickle, only where the first is missing
        folder = _snapshot(model, revision or None, [*_FILES, weights])
        if (folder / weights).is_file():
            break
    for one_of in ((CONFIG,), WEIGHTS, (*VOCABULARIES, *OTHER_VOCABULARIES)):
        if not any((folder / file).is_file() for file in one_of):
            raise _refusal("no_encoder", name=name, files=" or ".join(one_of))
    return folder


def _snapshot(model: str, revision: str | None, files: list[str]) -> Path:
    from huggingface_hub import errors, snapshot_download, utils

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its errors say all that matters
    if not sys.stderr.isatty():
        utils.disable_progress_bars()  # type: ignore[attr-defined]
    reasons = {  # the more special before their base classes
        errors.GatedRepoError: "is gated: ask for access on its page, then `hf auth login`",
        errors.RepositoryNotFoundError: "does not exist, or is private: `hf auth login`",
        errors.RevisionNotFoundError: f"has no branch, tag or commit {revision}",
        errors.HFValidationError: "can't exist: that is no name of a model",
        errors.LocalEntryNotFoundError: "can't be reached",
    }
    http_error: Any = errors.HfHubHTTPError.__bases__[0]  # the HTTP library's own root
    failures: tuple[type[Exception], ...] = (http_error, *reasons, OSError, RuntimeError)
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=files))
    except failures as error:  # a RuntimeError from hf_xet
        reason = next((text for kind, text in reasons.items() if isinstance(error, kind)), None)
        cause = error.__cause__ or error
        first_line = str(cause).strip().partition("\n")[0] or type(cause).__name__
        raise InputError(
            f"{model} is no folder here, and on the Hugging Face hub it "
            + (reason or f"can't be fetched ({first_line[:200]})")
        ) from error
