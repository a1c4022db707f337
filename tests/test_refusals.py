"""Files refusals.toml: each line is used, with the values that it names, and none is missing."""

import ast
import re
import tomllib
from pathlib import Path
from string import Formatter

import pytest

from minbert.errors import InputError, refusals

ROOT = Path(__file__).parents[1]
FILES = [
    path for room in ("adapters", "bench", "minbert") for path in (ROOT / room).rglob("*.toml")
]
TABLES = [
    (path.with_name(f"{name}.py"), lines)
    for path in FILES
    if path.name == "refusals.toml"
    for name, lines in tomllib.loads(path.read_text("utf-8")).items()
]


def named_in(line):
    """The values that a line names in braces, without their attributes."""
    fields = (field for _, field, _, _ in Formatter().parse(line) if field)
    return {re.split(r"[.\[]", field)[0] for field in fields}


@pytest.mark.parametrize(
    ("module", "lines"), TABLES, ids=[str(path.relative_to(ROOT)) for path, _ in TABLES]
)
def test_each_line_is_used_with_the_values_that_it_names(module, lines):
    tree = ast.parse(module.read_text("utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    used = set()
    for call in (each for each in calls if getattr(each.func, "id", "") == "_refusal"):
        name = call.args[0].value
        assert {each.arg for each in call.keywords} == named_in(lines[name]), name
        used.add(name)
    assert used == lines.keys()


def test_a_line_gets_its_values(tmp_path):
    (tmp_path / "refusals.toml").write_text('[own]\nwide = "{name}: {size:,} is too wide"\n')
    error = refusals(str(tmp_path / "own.py"))("wide", name="x", size=1000)
    assert isinstance(error, InputError)
    assert str(error) == "x: 1,000 is too wide"
