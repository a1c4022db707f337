"""The files of a checkpoint in the Hugging Face layout, and their digests. Free of torch."""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from minbert.errors import InputError

CONFIG: Final = "config.json"
WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")
"""In the order of preference."""
VOCABULARIES: Final = ("tokenizer.json", "vocab.txt")
"""In the order of preference."""
OTHER_VOCABULARIES: Final = ("vocab.json", "spm.model", "sentencepiece.bpe.model", "spiece.model")
"""Of tokenizers other than BERT's."""
_ANY_VOCABULARY: Final = (*VOCABULARIES, *OTHER_VOCABULARIES)
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
"""Optional, with any vocabulary: how text is normalised."""
_OTHER_SETTINGS: Final = (
    "merges.txt", TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
"""Optional, with vocabularies other than BERT's; the first goes with vocab.json."""
TOKENIZER_FILES: Final = (*_ANY_VOCABULARY, *_OTHER_SETTINGS)
POOLING: Final = "1_Pooling/config.json"
"""The pooling of an embedding model, as sentence-transformers saves it."""
_INDEX: Final = "model.safetensors.index.json"  # in a folder whose weights are in several files
_NAMING_FILES: Final = {"configuration_files", "transformers_weights"}
"""Keys of a configuration by which transformers reads other files in place of the usual."""
_ADAPTER: Final = "adapter_config.json"
"""In a folder with an adapter, which transformers would add to the weights."""

LARGEST_VOCABULARY: Final = 2**25
"""Bytes; half a million tokens, as the largest BERT vocabularies have, take 10 MB."""
_LARGEST_JSON: Final = 2**23


def is_folder(path: str | Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 (that of pathlib raises for an impossible path)


def is_file(path: str | Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113


def config_file(folder: Path) -> Path:
    return _first(folder, (CONFIG,))


def weights_file(folder: Path) -> Path:
    if is_file(folder / _ADAPTER):
        raise InputError(
            f"{folder}: has an adapter ({_ADAPTER}), and checkpoints are read without; merge it "
            "into the weights with PEFT's merge_and_unload, or remove its files"
        )
    if is_file(folder / _INDEX) and not is_file(folder / WEIGHTS[0]):  # as transformers prefers
        raise InputError(
            f"{folder}: its weights are in several files ({_INDEX}), and one is read; save it anew "
            "with save_pretrained(folder, max_shard_size='100GB')"
        )
    return _first(folder, WEIGHTS)


def tokenizer_files(folder: Path, vocabularies: tuple[str, ...] = VOCABULARIES) -> list[Path]:
    """The files that decide how text becomes token ids: a vocabulary, and the settings there are.
    InputError: no such folder, or it has no vocabulary."""
    vocabulary = _first(folder, vocabularies)
    is_other = vocabulary.name in OTHER_VOCABULARIES
    settings = _OTHER_SETTINGS if is_other else (TOKENIZER_CONFIG,)
    return [vocabulary, *filter(is_file, map(vocabulary.with_name, settings))]


def vocabulary_digest(folder: Path) -> str:
    """SHA-256, in hexadecimal, of the files that decide how text becomes token ids, of any
    tokenizer. InputError: no such folder, or a file that is missing or can't be read."""
    return _digest(tokenizer_files(folder, _ANY_VOCABULARY))


def model_digest(folder: Path) -> str:
    """SHA-256, in hexadecimal, of a checkpoint's configuration, vocabulary and weights. InputError
    as `vocabulary_digest`, or if a library would read files that are not in it."""
    config = config_file(folder)
    check_config(config)
    tokenizer = tokenizer_files(folder, _ANY_VOCABULARY)
    return _digest([config, *tokenizer, weights_file(folder)])


def check_config(path: Path) -> None:
    """Refuse a config.json by which transformers would read other files than the usual. InputError
    naming the key, or as `read_json`."""
    for name in sorted(_NAMING_FILES & read_json(path).keys()):
        raise InputError(f"{path}: {name} names other files, which are not read; remove it")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. InputError if it can't be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise InputError(f"{path}: is missing") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from error


def open_regular(path: Path, largest: int, *, follow: bool = True) -> BinaryIO:
    """A regular file of at most `largest` bytes, open for reading. OSError for a larger one, for a
    pipe or device, which may never end, and, unless `follow`, for a link."""
    if not follow and path.is_symlink():
        raise OSError(errno.ELOOP, "is a link, which is not followed")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no regular file")
        if status.st_size > largest:
            size = f"has {status.st_size:,} bytes, and at most {largest:,} are read"
            raise OSError(errno.EFBIG, size)
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def read_bytes(path: Path, largest: int) -> bytes:
    """The content of a file. InputError if it can't be read, or as of `open_regular`."""
    try:
        with open_regular(path, largest) as file:
            return file.read(largest)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); name another file") from error


def read_json(path: Path, kind: type = dict) -> Any:
    """The JSON object in a file, or its list. InputError: unreadable or overlarge file, broken
    JSON, or JSON of another kind."""
    content = read_bytes(path, _LARGEST_JSON)
    try:
        values = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({error}); download it again") from error
    if not isinstance(values, kind):
        name = "object" if kind is dict else "list"
        raise InputError(f"{path}: holds no JSON {name}; download it again")
    return values


def write_json(path: Path, values: Mapping[str, Any] | Sequence[Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    if not is_folder(folder):
        raise InputError(f"{folder}: there is no such folder; a checkpoint is a folder of files")
    for name in names:
        if is_file(folder / name):
            return folder / name
    raise InputError(
        f"{folder}: has no {' or '.join(names)}, so it is no checkpoint that can be loaded"
    )


def _digest(paths: list[Path]) -> str:
    """SHA-256 of the files' names and digests, in order."""
    lines = "".join(f"{path.name} {sha256_of(path)}\n" for path in paths)
    return hashlib.sha256(lines.encode()).hexdigest()
