"""The error for bad input, whose text is the line that a user sees, and a value in such a line."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Input that can't be used. The message is one line: what was wrong, where, and what to do;
    commands print it and leave with exit code 2."""


@contextmanager
def reading(path: object, *kinds: type[Exception], end: str = "") -> Iterator[None]:
    """Within the block, an OSError, ValueError or error of other kinds says in a line that a file
    can't be read, why, and at its end what to do."""
    caught: tuple[type[Exception], ...] = (OSError, ValueError, *kinds)
    try:
        yield
    except caught as error:
        raise InputError(f"{path}: can't be read ({error}){end}") from error


def shown(value: object) -> str:
    """Any value in at most 60 ASCII characters, for a message."""
    try:
        return ascii(value)[:60]
    except (RecursionError, ValueError):  # nested too deeply, or a number of too many digits
        return f"a value ({type(value).__name__}) that is too large to show"
