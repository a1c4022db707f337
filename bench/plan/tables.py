"""The tables of declarations in this folder: TOML files."""

import tomllib
from pathlib import Path
from typing import Any


def read_tables(name: str) -> dict[str, Any]:
    """The tables of a file in this folder, with tuples in place of lists."""
    tables = tomllib.loads(Path(__file__).with_name(name).read_text("utf-8"))
    return {key: _with_tuples(value) for key, value in tables.items()}


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tuples(each) for key, each in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
