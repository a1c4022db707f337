"""docs/extending.md: its examples work as they are there; its plugin is that of tests/plugins."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

from bench.analysis.groups import groups
from bench.plan import gridfile, rows
from bench.plan.planning import Resolved, expand
from bench.report import figures
from tests.bench.synthetic_rows import synthetic_rows

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extending.md"
SETTING = """
from bench.common.errors import InputError
from bench.export.formats.contents import why_not_scripted
from bench.forecast.outlook import _kind
from bench.plan.columns import BY_NAME, NAMES, row_of, values_of
from bench.plan.rows import SCHEMA
from bench.report.cells import names
from tests.bench.column_checks import CHECKS
from tests.bench.synthetic_rows import new_row
from tests.bench.test_extending import cell_of
from tests.experiments import runs_csv_page

SETTINGS = "settings = {max_gradient_norm = %s}"
NAME = "max_gradient_norm"
usual, other = cell_of(SETTINGS % 1), cell_of(SETTINGS % 2)
row = new_row(**other.columns())
older = {n: v for n, v in values_of(row).items() if n not in (NAME, "scale")}
CHECKS[NAME] = ""
docs = [line for line in runs_csv_page.page().splitlines() if NAME in line]
try:
    cell_of(SETTINGS % 0)
except InputError as error:
    refusal = str(error)
assert usual.cell_id == "OLD ID" != other.cell_id
assert NAMES.index(NAME) == NAMES.index("dropout") + 1
assert (BY_NAME[NAME].group, row[NAME], row_of(older)[NAME]) == ("settings", 2.0, 1.0)
assert SCHEMA == OLD_SCHEMA + 1
assert docs == [f"| `{NAME}` | number | norm to which gradients are clipped |  |  |"]
assert refusal.endswith(f"cells[0].settings.{NAME}: input should be greater than 0, not 0")
assert _kind(usual) == _kind(other) and 1.0 not in _kind(usual)
assert why_not_scripted(usual) is None
assert why_not_scripted(other) == f"train.py has no place for {NAME} 2.0"
assert names([row, new_row(**usual.columns())])(row) == "full fp32, seed 0, clipped at 2"
"""


def cell_of(settings):
    """The first cell of a grid of full fine-tuning whose table has some settings."""
    resolved = Resolved("minilm", "0", "mean", "0", "bf16", "grid")
    table = f'[[cells]]\nmode = ["full"]\namp = ["off"]\n{settings}\n'
    return expand(gridfile.parse(table, "mine.toml", "mine"), resolved)[0]


def block(file, heading):
    """The code that a section of the page gives for a file."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    code = section.partition(f"`{file}`")[2].partition("```")[2]
    return textwrap.dedent(code.partition("\n")[2].partition("```")[0])


def test_a_setting_is_declared_once(tmp_path):
    for name in ("adapters", "bench", "minbert", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file, before, spaces in (
        ("bench/plan/settings.toml", "[mode]\n", 0),
        ("bench/plan/cell.py", "\n    @property\n    def scale", 4),
    ):
        whole = (tmp_path / file).read_text(encoding="utf-8")
        assert whole.count(before) == 1
        text = textwrap.indent(block(file, "A setting"), " " * spaces)
        (tmp_path / file).write_text(whole.replace(before, f"{text}\n{before}"))
    code = SETTING.replace("OLD ID", cell_of("").cell_id).replace("OLD_SCHEMA", str(rows.SCHEMA))
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr


def test_the_plugin_is_quoted_as_it_is_and_files_that_the_page_names_are_there():
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:adapters|bench|minbert|tests)/[\w/]+(?:\.py|/))`", text))
    assert len(named) > 8
    assert not [name for name in named if not (ROOT / name).exists()]
    section = text.partition("\n## A method, ")[2].partition("\n## ")[0]
    quoted = re.findall(r"^```\w+\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    project = ROOT / "tests" / "plugins" / "scale"
    files = [path.read_text("utf-8", "replace") for path in project.rglob("*.*") if path.is_file()]
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
