"""Definitions of the report's terms, in terms.toml."""

import re
import tomllib
from importlib.resources import files
from typing import Final

_TEXT: Final = files("bench.report").joinpath("terms.toml").read_text("utf-8")
TERMS: Final = tuple((term, str(meaning)) for term, meaning in tomllib.loads(_TEXT).items())


def used(text: str) -> list[tuple[str, str]]:
    """The terms of which a text has a word."""
    return [
        (term, meaning)
        for term, meaning in TERMS
        if any(
            re.search(rf"(?<!\w){re.escape(w)}s?(?!\w)", text) for w in re.split(", | and ", term)
        )
    ]
