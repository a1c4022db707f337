"""docs/results.md says of each committed file of rows which measurement version it is of."""

import csv
import re
from pathlib import Path

import pytest

from bench.machine.conditions import MEASUREMENT_VERSION

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
HEADING = "## Measurement versions"
MADE_OF = {
    "ensemble.csv": "members.csv",
    "embedded-ensembles.csv": "embedded-members.csv",
    "updates.csv": "updates-cells.csv",
}
"""Files without a column for the version, and the cells that they were made of."""
BY_COMMIT = "peers.csv"
"""The one whose version is that of commits which its page names."""
BY_PROGRAM = "alternatives.csv"
"""The one of runs of other programs, too, which has no grids, and may have no rows yet."""
FILES = ["runs.csv", *sorted(path.name for path in DOCS.glob("*.csv"))]


def section():
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    return text.partition(f"\n{HEADING}\n")[2].partition("\n## ")[0]


def stated():
    """The versions that the page has, by file and grid; the grid is "" where a line has all."""
    found = {}
    for line in re.findall(r"^\| (\[.*) \|$", section(), re.M):
        files, versions, _ = line.split(" | ")
        grid = re.search(r"grid `([\w-]+)`", files)
        for file in re.findall(r"\]\((?:\.\./)?([\w.-]+)\)", files):
            found[file, grid[1] if grid else ""] = set(versions.split(", "))
    return found


def rows(file):
    path = ROOT / file if file == "runs.csv" else DOCS / file
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("file", FILES)
def test_each_file_has_the_versions_that_the_page_says(file):
    named = {grid: versions for (name, grid), versions in stated().items() if name == file}
    assert named, f"no line on {file} in {HEADING}"
    if file == BY_COMMIT:
        return
    made_of = rows(MADE_OF.get(file, file))
    if file in MADE_OF:
        assert {row["cell_id"] for row in rows(file)} - {""} <= {row["cell_id"] for row in made_of}
    if file == BY_PROGRAM:
        assert {row["measurement_version"] for row in made_of} <= named[""]
        return
    grids = [row["grid"] if row["grid"] in named else "" for row in made_of]
    found = set(zip(grids, (row["measurement_version"] for row in made_of), strict=True))
    assert found == {(grid, version) for grid, versions in named.items() for version in versions}


def test_the_commits_of_the_file_without_versions_stand_in_its_section():
    assert set(rows(BY_COMMIT)[0]) & {"cell_id", "measurement_version"} == set()
    text = (DOCS / "performance.md").read_text(encoding="utf-8")
    part = text.partition("\n## Against transformers + PEFT\n")[2].partition("\n## ")[0]
    assert re.search(r"at commits [0-9a-f]{7} and [0-9a-f]{7}", part)
    assert "](performance.md#against-transformers--peft)" in section()


def test_no_line_is_on_a_file_that_is_not_there_and_each_version_has_its_change():
    assert {file for file, _ in stated()} == set(FILES)
    listed = {int(number) for number in re.findall(r"^\| (\d+) \| \S", section(), re.M)}
    assert listed >= set(range(1, MEASUREMENT_VERSION + 1))


def test_pages_that_quote_rows_lead_there():
    """Those that link a file of rows, and that is all pages but lists of columns and commands."""
    quoting = set()
    for path in DOCS.glob("*.md"):
        text = path.read_text(encoding="utf-8")
        links = re.findall(r"\]\(([\w./-]+\.csv)\)", text)
        if {Path(link).name for link in links} & set(FILES) - {"runs.csv"}:
            quoting.add(path.name)
            assert "#measurement-versions)" in text, path.name
    assert quoting == {
        "results.md", "paper.md", "performance.md", "comparing.md", "encoders.md", "rates.md",
        "alternatives.md", "racing.md", "tokens.md",
    }  # fmt: skip
