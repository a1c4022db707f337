"""What holds a column: whether its check is there, and values that the check has to refuse."""

import ast
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from bench.plan.cell import ABOUT, Value
from bench.plan.columns import BY_NAME, VALUES, Column

ROOT = Path(__file__).parents[2]

_CHECKS: Final[dict[str, dict[str, str]]] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
)
"""By file and test, the columns that the test holds, separated by spaces."""
_SETTINGS: Final = "tests/bench/grid/test_columns.py::test_settings_are_those_of_the_grid_file"
"""The test of the other settings."""

CHECKS: Final = dict.fromkeys((*ABOUT, "scale"), _SETTINGS) | {
    name: f"{file}::{test}"
    for file, by_test in _CHECKS.items()
    for test, names in by_test.items()
    for name in names.split()
}
"""The id of the test that holds each column."""


def problem_of(column: str, check: str) -> str | None:
    """What is wrong with a column's check, in a line; None if it is a test that looks at it."""
    file, _, name = check.partition("::")
    if not name:
        return f"{column}: name the test that holds it, in tests/bench/column_checks.toml"
    test = tests_in(file).get(name)
    if test is None:
        return f"{column}: there is no test {check}"
    if column not in words_of(test):
        return f"{column}: {check} does not look at it"
    return None


@cache
def tests_in(file: str) -> dict[str, ast.FunctionDef]:
    path = ROOT / file
    body = ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    return {node.name: node for node in functions if node.name.startswith("test_")}


def words_of(test: ast.FunctionDef) -> set[str]:
    """What a test names as text, keyword or attribute; docstring and comments don't count."""
    documented, words = ast.get_docstring(test, clean=False), set[str]()
    for node in ast.walk(test):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words |= {*re.findall(r"\w+", node.value)} if node.value != documented else set()
        elif isinstance(node, ast.keyword) and node.arg is not None:
            words.add(node.arg)
        elif isinstance(node, ast.Attribute):
            words.add(node.attr)
    return words


def held_by(file: str) -> list[str]:
    here = Path(file).relative_to(ROOT).as_posix()
    return [name for name in BY_NAME if CHECKS[name].partition("::")[0] == here]


def refuses_wrong_values(name: str, tests: dict[str, Any], ran: Any) -> None:
    """Fail unless a column's check, a test in `tests`, fails for another value or none there."""
    check: Callable[[Any], None] = tests[CHECKS[name].partition("::")[2]]
    check(ran)
    for value in wrong_values(BY_NAME[name], ran.row[name]):
        wrong = replace(ran, row=ran.row | {name: value})
        with pytest.raises(AssertionError):
            check(wrong)


def wrong_values(column: Column, value: Value) -> list[Value]:
    """Other values of a column than its right one, of numbers one near it; and none at all."""
    if isinstance(value, int):
        return [None, value + 1]
    if isinstance(value, float):
        return [None, value * 1.01 if value else 0.01]
    others = [other for other in VALUES.get(column.name, ("other",)) if other != value]
    return [*others, *([None] if value is not None else [])]
