"""docs/extending.md: its examples of an adapter method and of a figure work as they are there."""

import csv
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

from bench.analysis.groups import groups
from bench.report import figures
from tests.bench.synthetic_rows import synthetic_rows

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extending.md"
GRID = """
[[cells]]
mode = ["scale"]
layers = ["all-lin-only", "attn"]
amp = ["off", "on"]
"""


def block(file: str, heading: str = "An adapter method") -> str:
    """The code that a section of the page gives for a file."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    code = section.partition(f"`{file}`")[2].partition("```python\n")[2].partition("```")[0]
    return textwrap.dedent(code)


def extended(folder: Path) -> Path:
    """A copy of the project with the example's two files."""
    for name in ("adapters", "bench", "minbert"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "adapters" / "scale.py").write_text(block("adapters/scale.py"))
    registry = folder / "adapters" / "methods.py"
    text = registry.read_text(encoding="utf-8")
    end = "\n)\n\nMETHODS"
    assert text.count(end) == 1
    registry.write_text(text.replace(end, f"\n{block('adapters/methods.py').rstrip()},{end}"))
    return folder


def test_the_example_of_a_method_runs(tiny_checkpoint: Path, tmp_path: Path) -> None:
    home = extended(tmp_path / "copy")
    (tmp_path / "mine.toml").write_text(GRID)
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "bench.grid", "--grid", str(tmp_path / "mine.toml")),
            *("--model", str(tiny_checkpoint), "--max-train", "64", "--max-dev", "32"),
            *("--max-steps", "2", "--device", "cpu", "--runs", str(tmp_path / "runs.csv")),
            *("--reports", str(tmp_path / "reports")),
        ],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(home), "MINBERT_BENCH_LOCKS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    with (tmp_path / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["mode"], row["rank"], row["alpha"], row["status"]) for row in rows} == {
        ("scale", "", "", "ok")
    }
    assert {row["layers"] for row in rows} == {"all-lin-only", "attn"}
    assert "scale on all-lin-only" in (tmp_path / "reports" / "index.html").read_text()


def test_the_example_of_a_figure_is_drawn() -> None:
    [group] = groups(synthetic_rows(8, failures=False))
    names = dict(vars(figures))
    exec(block("bench/report/figures.py", "A figure"), names)  # noqa: S102 (of this project)
    drawing = names["startup"](group)
    assert drawing.svg.startswith("<svg")
    assert all(f"{drawing.stem}-" in name for name in re.findall(r' id="([^"]*)"', drawing.svg))
    slowest = max(setting.estimate("startup_s").value for setting in group.settings)
    assert drawing.alt == f"Up to {slowest:.2f} s."


def test_files_that_the_page_names_are_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:adapters|bench|minbert|tests)/[\w/]+(?:\.py|/))`", text))
    assert len(named) > 8
    assert {name for name in named if not (ROOT / name).exists()} == {"adapters/scale.py"}
