"""docs/extending.md: its examples of a setting and of a figure work as they are there, and its
plugin is that of tests/plugins."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bench.analysis.groups import groups
from bench.plan import gridfile, rows
from bench.plan.planning import Resolved, expand
from bench.report import figures
from tests.bench.synthetic_rows import synthetic_rows

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extending.md"
SETTING = """
import json
import sys

from bench.common.errors import InputError
from bench.export.training import _SAME, why_not_scripted
from bench.forecast.outlook import _kind
from bench.plan import gridfile
from bench.plan.columns import BY_NAME, NAMES, row_of, values_of
from bench.plan.planning import Resolved, expand
from bench.plan.rows import SCHEMA
from bench.report.cells import names
from tests.experiments import runs_csv_page
from tests.bench.column_checks import CHECKS
from tests.bench.synthetic_rows import new_row

TABLE = '''
[[cells]]
mode = ["full"]
amp = ["off"]
settings = {max_gradient_norm = %s}
'''
resolved = Resolved("minilm", "0", "mean", "0", "bf16", "grid")


def cell(value):
    return expand(gridfile.parse(TABLE % value, "mine.toml", "mine"), resolved)[0]


def refusal():
    try:
        cell(0)
    except InputError as error:
        return str(error)


usual, other = cell(1), cell(2)
CHECKS["max_gradient_norm"] = ""
row = new_row(**other.columns())
older = {n: v for n, v in values_of(row).items() if n not in ("max_gradient_norm", "scale")}
json.dump(
    {
        "ids": [usual.cell_id, other.cell_id],
        "column": [NAMES.index("max_gradient_norm") - NAMES.index("dropout"),
                   BY_NAME["max_gradient_norm"].group, row["max_gradient_norm"]],
        "schema": SCHEMA,
        "older rows": row_of(older).max_gradient_norm,
        "docs": [line for line in runs_csv_page.page().splitlines() if "max_gradient" in line],
        "refusal": refusal(),
        "forecast": [_kind(usual) == _kind(other), 1.0 in _kind(usual)],
        "script": ["max_gradient_norm" in _SAME, why_not_scripted(usual), why_not_scripted(other)],
        "report": names([row, new_row(**usual.columns())])(row),
    },
    sys.stdout,
)
"""


def block(file, heading):
    """The code that a section of the page gives for a file."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    code = section.partition(f"`{file}`")[2].partition("```")[2]
    return textwrap.dedent(code.partition("\n")[2].partition("```")[0])


def insert(path, before, text):
    """Insert text into a file at the only place of another text."""
    whole = path.read_text(encoding="utf-8")
    assert whole.count(before) == 1
    path.write_text(whole.replace(before, f"{text}{before}"))


@pytest.mark.parametrize("more", [False, True], ids=["of scores", "exported and of time too"])
def test_a_setting_is_declared_once(tmp_path, more):
    for name in ("adapters", "bench", "minbert", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    table = block("bench/plan/settings.toml", "A setting")
    if more:
        table = table.replace('["score"]', '["time", "score"]') + 'exported = "same"\n'
    insert(tmp_path / "bench/plan/settings.toml", "[mode]\n", f"{table}\n")
    field = textwrap.indent(block("bench/plan/cell.py", "A setting"), "    ")
    insert(tmp_path / "bench/plan/cell.py", "\n    @property\n    def scale", field)
    ended = subprocess.run(
        [sys.executable, "-c", SETTING], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    answers = json.loads(ended.stdout)
    usual, other = answers.pop("ids")
    assert usual != other
    resolved = Resolved("minilm", "0", "mean", "0", "bf16", "grid")
    plain = gridfile.parse('[[cells]]\nmode = ["full"]\n', "mine.toml", "mine")
    assert [usual] == [cell.cell_id for cell in expand(plain, resolved)], "older ids stay"
    unknown = "train.py has no place for max_gradient_norm 2.0"
    assert answers == {
        "column": [1, "settings", 2.0],
        "schema": rows.SCHEMA + 1,
        "older rows": 1.0,
        "docs": ["| `max_gradient_norm` | number | norm to which gradients are clipped |  |  |"],
        "refusal": "mine.toml: cells[0].settings.max_gradient_norm: input should be greater than "
        "0, not 0",
        "forecast": [not more, more],
        "script": [more, None, None if more else unknown],
        "report": "full fp32, seed 0, clipped at 2",
    }


def test_the_plugin_is_quoted_as_it_is():
    section = PAGE.read_text(encoding="utf-8").partition("\n## A method, ")[2].partition("\n## ")[0]
    quoted = re.findall(r"^```\w+\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    project = ROOT / "tests" / "plugins" / "scale"
    files = [path.read_text(encoding="utf-8") for path in project.rglob("*.*") if path.is_file()]
    assert len(quoted) == 12
    assert all(any(code in file for file in files) for code in quoted)


def test_the_example_of_a_figure_is_drawn():
    [group] = groups(synthetic_rows(8, failures=False))
    names = dict(vars(figures))
    exec(block("bench/report/figures.py", "A figure"), names)  # noqa: S102 (of this project)
    drawing = names["startup"](group)
    assert drawing.svg.startswith("<svg")
    assert all(f"{drawing.stem}-" in name for name in re.findall(r' id="([^"]*)"', drawing.svg))
    slowest = max(setting.estimate("startup_s").value for setting in group.settings)
    assert drawing.alt == f"Up to {slowest:.2f} s."


def test_files_that_the_page_names_are_there():
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:adapters|bench|minbert|tests)/[\w/]+(?:\.py|/))`", text))
    assert len(named) > 8
    assert not [name for name in named if not (ROOT / name).exists()]
