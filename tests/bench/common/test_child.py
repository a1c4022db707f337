"""How a child's end is read."""

import sys

import pytest

from bench.common.child import ask_by
from bench.common.errors import InputError

PROGRAM = (
    "import sys; sys.exit(print('error: no such model\\nleaked 4 instances', file=sys.stderr) or 2)"
)


def test_bad_input_is_the_line_that_says_so_whatever_libraries_write_after_it():
    with pytest.raises(InputError, match=r"^no such model$"):
        list(ask_by([sys.executable, "-c", PROGRAM], {}))
