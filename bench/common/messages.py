"""Messages for runs.csv: one line, without this machine's folders. Pure."""

import re
from collections.abc import Sequence
from typing import Final

LONGEST: Final = 300

_ESCAPE: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_QUOTED_PATH: Final = re.compile(r"(['\"])/(?:[^'\"]*/)?([^'\"/]+)/?\1")
_PATH: Final = re.compile(r"(?<![\w.)\]])/(?:[^\s/'\":,;()]+/)+(?=[^\s/])")
_TRACEBACK: Final = "Traceback (most recent call last):"


def one_line(text: str) -> str:
    """A text as one line of at most `LONGEST` characters, with absolute paths cut to file names."""
    line = " ".join(_CONTROL.sub(" ", _ESCAPE.sub("", text)).split())
    line = _PATH.sub("", _QUOTED_PATH.sub(r"\1\2\1", line))
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def shown(value: object) -> str:
    """Any value in at most 60 ASCII characters, for a message."""
    try:
        return ascii(value)[:60]
    except (RecursionError, ValueError):  # nested too deeply, or a number of too many digits
        return f"a value ({type(value).__name__}) that is too large to show"


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
