"""What was counted once, kept in the user's cache folder: a small file of JSON for each key."""

import json
from contextlib import suppress
from pathlib import Path

from bench.common.files import write_atomically
from minbert.assets.embedded import cache_folder


def _path(key: str) -> Path:
    return cache_folder() / "predictions" / f"{key}.json"


def read(key: str) -> object:
    """What is kept under a key; None where there is nothing that can be read."""
    with suppress(OSError, ValueError, RecursionError):
        return json.loads(_path(key).read_text(encoding="utf-8"))
    return None


def write(key: str, value: object) -> None:
    """Keep something, if the folder can be written: else it is counted again next time."""
    path = _path(key)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(value).encode() + b"\n")
