"""Checkpoints from the Hugging Face hub, by the hub's own library, an optional dependency."""

import io
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from minbert.errors import InputError
from minbert.files import CONFIG, TOKENIZER_CONFIG, VOCABULARIES, WEIGHTS

Progress = Callable[[int, int], None]

_FILES: Final = (CONFIG, *VOCABULARIES, TOKENIZER_CONFIG)


def fetch_from_hub(name: str, progress: Progress | None = None) -> Path:
    """The folder of a checkpoint on the hub, in the hub library's cache; fetched if need be.

    Only the files that a BERT encoder is loaded from are fetched. A cached checkpoint needs no
    network.

    Args:
        name: `bert-base-uncased` or `user/model`; `@` and a branch, tag or commit after it choose
            a version other than the newest.
        progress: called with the bytes fetched and their total.

    Raises:
        InputError: the extra `hub` is not installed, the hub has no such checkpoint, it can't be
            reached, or the files can't be kept.
    """
    if find_spec("huggingface_hub") is None:
        raise InputError(
            f"{name} is not on this machine, and fetching it from the Hugging Face hub takes the "
            "extra 'hub': pip install -e '.[hub]'"
        )
    model, _, revision = name.partition("@")
    for weights in WEIGHTS:  # the second, a pickle, only where the first is missing
        folder = _snapshot(model, revision or None, [*_FILES, weights], progress)
        if (folder / weights).is_file():
            break
    for one_of in ((CONFIG,), WEIGHTS, VOCABULARIES):
        if not any((folder / file).is_file() for file in one_of):
            raise InputError(
                f"{name} on the Hugging Face hub holds no {' or '.join(one_of)}, so it is no BERT "
                "checkpoint that can be loaded here"
            )
    return folder


def _snapshot(
    model: str, revision: str | None, files: list[str], progress: Progress | None
) -> Path:
    from huggingface_hub import errors, snapshot_download

    http_error: type[Any] = errors.HfHubHTTPError.__bases__[0]  # the HTTP library's own root
    bar = _bar_class(progress)
    try:
        with _quiet():
            return Path(
                snapshot_download(model, revision=revision, allow_patterns=files, tqdm_class=bar)
            )
    except errors.GatedRepoError as error:
        raise InputError(
            f"{model} on the Hugging Face hub is gated: ask for access on its page, then "
            "`hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{model} is no folder here and no model on the Hugging Face hub, or it is private "
            "and `hf auth login` is missing"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f"{model} on the Hugging Face hub has no branch, tag or commit {revision}"
        ) from error
    except errors.HFValidationError as error:
        raise InputError(
            f"{model!r} is no folder here, and can't be a name on the Hugging Face hub"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"{model} is no folder here, and the Hugging Face hub can't be reached "
            f"({_cause(error)})"
        ) from error
    except (http_error, OSError, RuntimeError) as error:  # the last from hf_xet
        raise InputError(
            f"{model} can't be fetched from the Hugging Face hub ({_cause(error)})"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the hub library's warnings: its errors say all that matters."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _cause(error: BaseException) -> str:
    """The cause of an error, in one line."""
    if error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:200]


def _bar_class(progress: Progress | None) -> type[Any]:
    """A class of invisible progress bars that pass their count on if they count bytes.

    The library runs several bars at once, from several threads, on the same files: the furthest
    counts.
    """
    from tqdm import tqdm

    lock = threading.Lock()
    furthest = 0

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self._counts_bytes = options.get("unit") == "B"
            options.pop("name", None)  # the hub library's own
            super().__init__(*args, **{**options, "file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> Any:
            nonlocal furthest
            drawn = super().update(n)
            if progress is not None and self._counts_bytes:
                with lock:
                    furthest = max(furthest, int(self.n))
                    progress(furthest, max(furthest, int(self.total or 0)))
            return drawn

    return Bar
