"""Costs that have been counted, in folders: a small JSON file for each key."""

from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from bench.common.files import write_atomically
from minbert.assets.cache import cache_folder

T = TypeVar("T")


class Cache:
    """Reads from the first folder that holds a key, and writes to all of them.

    The user's cache folder comes after the `folders` given.
    """

    def __init__(self, *folders: Path) -> None:
        self._folders = (*folders, cache_folder() / "predictions")

    def read(self, key: str, kind: TypeAdapter[T]) -> T | None:
        """The value of a key; None where no folder holds one of its kind."""
        for folder in self._folders:
            with suppress(OSError, ValueError):
                return kind.validate_json((folder / f"{key}.json").read_bytes())
        return None

    def write(self, key: str, kind: TypeAdapter[T], value: T) -> None:
        """Keep a value in every folder that can be written; elsewhere it is counted again."""
        for folder in self._folders:
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / f"{key}.json", kind.dump_json(value) + b"\n")
