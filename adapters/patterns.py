"""Values and regular expressions from a file: shown on one line, and limited in matching time."""

import re
from typing import Any, Final

from minbert.errors import InputError

_LONGEST: Final = 1000
_ESCAPED: Final = re.compile(r"\\.", re.DOTALL)
_REPEATED_GROUP: Final = re.compile(r"\)\s*[*+{]")
_OTHER_GROUP: Final = re.compile(r"\(\?(?![:=!<])")
_REPEAT: Final = re.compile(r"(?<!\()[*+?{]")


def shown(value: Any) -> str:
    """A value on one line, cut if it is long."""
    try:
        return ascii(value)[:80]
    except RecursionError:
        return "something nested too deeply"


def count_repeats(pattern: str) -> int:
    """An upper bound on the number of `*`, `+`, `?` and `{` in a regular expression."""
    return len(_REPEAT.findall(_ESCAPED.sub("", pattern)))


def compiled(pattern: str, most: int, around: tuple[str, str] = ("", "")) -> re.Pattern[str]:
    """Compile a regular expression from a file, if matching it is sure to end soon.

    The time for a name grows with its length to the power of the number of repeats. With repeats of
    repeats, such as `(a+)+`, it grows exponentially: those are refused.

    Args:
        most: the number of repeats allowed.
        around: parts to put before and after the expression.

    Raises:
        InputError: for an expression that may take long, or is invalid.
    """
    bare = _ESCAPED.sub("", pattern)
    if (
        len(pattern) > _LONGEST
        or _REPEATED_GROUP.search(bare)
        or _OTHER_GROUP.search(bare)
        or count_repeats(pattern) > most
    ):
        raise InputError(
            f"the pattern {shown(pattern)} in the adapter's config could take too long to match; "
            f"repeat no groups in it and have at most {most} of *, + and ?"
        )
    before, after = around
    try:
        return re.compile(f"{before}{pattern}{after}")
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(
            f"a pattern in the adapter's config, {shown(pattern)}, is no regular expression: "
            f"{shown(str(error))}"
        ) from error
