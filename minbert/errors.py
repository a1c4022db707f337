"""The error for bad input, whose text is the line that a user sees, and what writes such lines."""

import tomllib
from collections.abc import Callable
from pathlib import Path


class InputError(ValueError):
    """Input that can't be used. The message is one line: what was wrong, where, and what to do;
    commands print it and leave with exit code 2."""


def refusals(module: str) -> Callable[..., InputError]:
    """Makes the errors of a module, given by its `__file__`, from its lines in the file
    refusals.toml beside it: by the name of a line, and the values that it names in braces."""
    path = Path(module)
    tables = tomllib.loads(path.with_name("refusals.toml").read_text(encoding="utf-8"))
    lines = tables[path.stem]
    return lambda name, /, **values: InputError(lines[name].format(**values))


def shown(value: object) -> str:
    """Any value in at most 60 ASCII characters, for a message."""
    try:
        return ascii(value)[:60]
    except (RecursionError, ValueError):  # nested too deeply, or a number of too many digits
        return f"a value ({type(value).__name__}) that is too large to show"
