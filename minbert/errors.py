"""The error for bad input; its text is the line that a user sees."""

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
