"""Reports on a disk: links that lead out of a folder stay as they are, and pages stay small."""

from pathlib import Path

import pytest

from bench.common.csvfile import write_csv
from bench.common.errors import InputError
from bench.compare.__main__ import command as compare
from bench.launch.checks import check_reports
from bench.report import cells, tables, tradeoff
from bench.report.__main__ import main as report
from bench.report.render import render
from bench.results.rebuild import main as rebuild
from bench.results.store import Store
from tests.bench.grid.test_bad_input import contents
from tests.bench.synthetic_rows import as_results, cell, result_row, synthetic_rows

WRITERS = {
    "report": lambda: report.main([], standalone_mode=False),
    "history": lambda: report.main(["--history"], standalone_mode=False),
    "compare": lambda: compare.main(
        ["runs.csv", "new.csv", "--reports", "reports"], standalone_mode=False
    ),
    "rebuild": lambda: rebuild.main([], standalone_mode=False),
    "csv": lambda: write_csv(Path("reports/runs.csv"), ["a"], [{"a": 1}]),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with rows and a folder of reports, and one outside."""
    folder = tmp_path / "results"
    (folder / "reports").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    monkeypatch.chdir(folder)
    for name in ("runs.csv", "new.csv"):
        Store(folder / name).append(*synthetic_rows(2))
        (folder / f"{name}.lock").unlink()
    return folder


@pytest.mark.parametrize("writer", WRITERS)
def test_files_are_written_in_place_of_links(folder, undrawn, writer):
    outside = folder.parent / "outside"
    WRITERS[writer]()
    suffixes = (".html", ".md", ".json", ".svg")
    written = [path for path in contents(folder) if path.suffix in suffixes]
    written += [folder / "reports/runs.csv", folder / "runs.csv.before"]
    for number, path in enumerate(dict.fromkeys(written)):
        (outside / f"{number}").write_bytes(b"mine")
        path.unlink(missing_ok=True)
        path.symlink_to(outside / f"{number}")
        path.with_name(f".{path.name}.tmp").symlink_to(outside / f"new{number}")
    before = contents(outside)
    WRITERS[writer]()
    assert contents(outside) == before


@pytest.mark.parametrize("link", ["reports", "reports/figures"])
def test_a_folder_that_is_elsewhere_is_refused(folder, link):
    outside = folder.parent / "outside"
    if link == "reports":
        (folder / link).rmdir()
    (folder / link).symlink_to(outside)
    for write in (WRITERS["report"], lambda: check_reports(Path("reports"))):
        with pytest.raises(InputError, match=f"{link}: is a link"):
            write()
    assert contents(outside) == {}


@pytest.mark.usefixtures("undrawn")
def test_of_many_rows_some_are_shown_whether_they_are_seeds_rates_or_groups(tmp_path, monkeypatch):
    for module, name, most in (
        (tables, "MOST_DRAWN", 60), (tradeoff, "MOST_DRAWN", 60), (tables, "MOST_SETTINGS", 80),
        (cells, "MOST_CELLS", 130), (cells, "MOST_OF_A_GROUP", 100),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, most)
    rates = [cell("lora", 8, "attn", "off", learning_rate=1e-5 * n) for n in range(1, 200)]
    rates = [result_row(of) for of in [*rates, cell("full", None, None, "off")]]
    groups = [row | {"conditions_id": f"c{n}"} for n in range(40) for row in synthetic_rows(5)]
    for rows, lines in (
        (synthetic_rows(68 * 4), ["100 of 272 are shown; the rest is", "260 of 272 end"]),
        (rates, ["60 of 200 settings are drawn", "80 of 200 are shown"]),
        (groups, ["19 more groups are not shown; their rows are in runs", "130 of 200 are shown"]),
    ):
        html = render(as_results(rows, runs=["runs.csv"]), tmp_path).read_text("utf-8")
        assert len(html.encode()) < 5_000_000
        assert (tmp_path / "report.md").stat().st_size < 1_000_000
        assert html.count('<tr class="failed">') < 100
        for line in lines:
            assert line in html
