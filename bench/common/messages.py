"""Messages for runs.csv and for a terminal, and the commands that they name."""

import math
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from minbert.errors import shown as shown

CONSOLE: Final = "minbert-bench"
CALLED: Final = "MINBERT_BENCH_CALLED"
"""Environment: by which command this process, or the one that started it, was called."""
_MODULE: Final = re.compile(r"\bpython -m (?:bench|minbert)\.(?!worker\b)([a-z]+)\b(?!\.\w)")
LONGEST: Final = 300

_ESCAPE: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_QUOTED_PATH: Final = re.compile(r"(['\"])/(?:[^'\"]*/)?([^'\"/]+)/?\1")
_PATH: Final = re.compile(r"(?<![\w.)\]])/(?:[^\s/'\":,;()]+/)+(?=[^\s/])")
_TRACEBACK: Final = "Traceback (most recent call last):"


def one_line(text: str) -> str:
    """A text as one line of at most `LONGEST` characters, with absolute paths cut to file names."""
    line = " ".join(_CONTROL.sub(" ", _ESCAPE.sub("", text)).split())
    line = printable(_PATH.sub("", _QUOTED_PATH.sub(r"\1\2\1", line)))
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def printable(text: str) -> str:
    """A text with escapes for characters that are invisible, move a terminal's cursor or reverse
    the text around them; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def command_line(name: str, *words: str) -> str:
    """The command `python -m bench.NAME` for a shell, with every word quoted, on one line."""
    arguments = (printable(" ".join(word.split())) for word in words)
    return shlex.join(["python", "-m", f"bench.{name}", *arguments])


def as_called(text: str) -> str:
    """A text with commands of this project in the form in which the user called it."""
    if os.environ.get(CALLED) != CONSOLE:
        return text
    return _MODULE.sub(lambda m: f"{CONSOLE} {'run' if m[1] == 'grid' else m[1]}", text)


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text, which may be anybody's, to stdout or stderr."""
    import click  # takes time, and workers don't need it

    click.echo(printable(as_called(text)), err=err, nl=nl)


def enumerated(words: Sequence[str]) -> str:
    """Words in a sentence: `one, two and three`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def last_error(stderr: str) -> str:
    """The line of stderr with the reason a program ended: a traceback's exception, or the last."""
    _, traceback, after = stderr.rpartition(_TRACEBACK)
    lines = [line for line in (after if traceback else stderr).splitlines() if line.strip()]
    if traceback:
        lines = [line for line in lines if not line.startswith(" ")][:1] or lines
    return one_line(lines[-1]) if lines else ""


def count(number: int, thing: str, things: str | None = None) -> str:
    """A number with its noun: `1 cell`, `2 cells`."""
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"


def some_of(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def finite(
    value: Any, form: Callable[[str], str] = str, number: Callable[[float], float] = float
) -> Any:
    """A value of JSON, with null for numbers that are not finite, and texts and other numbers that
    are not whole in a form."""
    if isinstance(value, Mapping):
        return {name: finite(inner, form, number) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner, form, number) for inner in value]
    if isinstance(value, float):
        return number(value) if math.isfinite(value) else None
    return form(value) if isinstance(value, str) else value
