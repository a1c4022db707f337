"""All checks in the order in which they run, from checks.toml. Pure."""

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from typing import Final

from bench.common.errors import InputError
from bench.doctor.check import Check

_TABLES: Final = tomllib.loads(files("bench.doctor").joinpath("checks.toml").read_text("utf-8"))
CHECKS: Final = tuple(Check(**table) for table in _TABLES["checks"])
FIRST_LOOK: Final = tuple(Check(**table) for table in _TABLES["first-look"])
"""What `--first-look` runs in place of the checks, on a GPU."""


def selected(names: Sequence[str]) -> list[Check]:
    """The checks with some names and those that they need, in order; all without names.

    Raises:
        InputError: for an unknown name.
    """
    by_name = {check.name: check for check in CHECKS}
    if unknown := [name for name in names if name not in by_name]:
        raise InputError(f"there is no check {unknown[0]!r}; name some of {', '.join(by_name)}")
    wanted, left = set[str](), list(names or by_name)
    while left:
        name = left.pop()
        if name not in wanted:
            wanted.add(name)
            left += by_name[name].needs
    return [check for check in CHECKS if check.name in wanted]
