"""runs.csv rebuilt from its cells' folders, and brought up to date from an older schema."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.plan.columns import NAMES
from bench.plan.rows import SCHEMA, Row
from bench.results.row import keep_row
from bench.results.store import Store, cell_folder, read_rows
from tests.bench.synthetic_rows import synthetic_rows


def fill(path: Path, rows: list[Row], *, folders: bool = True) -> None:
    store = Store(path)
    for row in rows:
        store.append(row)
        if folders:
            name = f"{row['mode']}-cell"
            folder = cell_folder(path, name, *row.row_key)
            folder.mkdir(parents=True)
            keep_row(folder, row)


def rebuild(path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "bench.rebuild", "--runs", str(path), *more]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_a_lost_file_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    fill(path, synthetic_rows(6))
    before = read_rows(path)
    path.unlink()
    done = rebuild(path)
    assert done.returncode == 0, done.stderr
    assert "6 rows" in done.stdout
    assert sorted(read_rows(path), key=str) == sorted(before, key=str)


def test_attempts_and_repeats_of_a_cell_come_back(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    [row] = synthetic_rows(1)
    fill(path, [row | {"repeat": n, "attempt": m} for n in (1, 2) for m in (1, 2)])
    rows = read_rows(path)
    assert len([each for each in (tmp_path / "runs").iterdir() if each.is_dir()]) == 4
    path.unlink()
    assert rebuild(path).returncode == 0
    assert sorted(read_rows(path), key=lambda row: row.row_key) == rows
    assert rebuild(path).returncode == 0
    assert len(read_rows(path)) == 4


def test_rows_of_two_versions_with_one_key_both_stay(tmp_path: Path) -> None:
    """As in a file that was put together from two machines' or two checkouts'."""
    path = tmp_path / "runs.csv"
    [row] = synthetic_rows(1)
    newer = row | {"code_version": "0.2.0", "repeat": 1}
    fill(path, [row | {"repeat": 1}, newer], folders=False)
    before = read_rows(path)
    assert rebuild(path).returncode == 0
    assert read_rows(path) == before
    folder = cell_folder(path, "full-cell", *newer.row_key)
    folder.mkdir(parents=True)
    keep_row(folder, newer | {"code_version": "0.3.0"})
    assert rebuild(path).returncode == 0
    assert [each["code_version"] for each in read_rows(path)] == ["0.1.0", "0.2.0", "0.3.0"]


def test_rows_without_a_folder_and_their_order_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    rows = synthetic_rows(6)
    fill(path, rows[:2], folders=False)
    fill(path, rows[2:])
    before = path.read_bytes()
    assert rebuild(path).returncode == 0
    assert path.read_bytes() == before


def test_a_broken_line_is_reported_left_out_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    fill(path, synthetic_rows(4))
    good = read_rows(path)
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace(",ok,", ",fine,", 1)
    path.write_text("".join(lines) + '1,"torn')
    torn = path.read_bytes()
    done = rebuild(path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"kept": 3, "from_folders": 1, "left_out": 2}
    assert "line 3" in done.stderr
    assert sorted(read_rows(path), key=str) == sorted(good, key=str)
    assert (tmp_path / "runs.csv.before").read_bytes() == torn


def test_a_last_line_that_was_cut_is_taken_from_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    fill(path, synthetic_rows(3))
    good = read_rows(path)
    path.write_bytes(path.read_bytes()[:-5])  # inside finished_at
    done = rebuild(path, "--json")
    assert json.loads(done.stdout) == {"kept": 2, "from_folders": 1, "left_out": 1}
    assert "line 4" in done.stderr
    assert read_rows(path) == good


def test_an_older_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    rows = synthetic_rows(3)
    new = ("imports_anon_mib", "energy_source", "unfreeze", "head", "schedule", "regression_loss")
    names = [name for name in NAMES if name not in new]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in rows:
            values = row | {"schema": 1}
            writer.writerow("" if values[n] is None else values[n] for n in names)
    assert rebuild(path).returncode == 0
    found = read_rows(path)
    assert len(found) == 3
    assert {row["schema"] for row in found} == {SCHEMA}
    assert {row["cell_id"] for row in found} == {row["cell_id"] for row in rows}
    assert found[0]["imports_anon_mib"] is None
    assert {(row["head"], row["schedule"]) for row in found} == {("linear", "linear")}
    assert all(row["unfreeze"] == (None if row["mode"] == "head" else "all") for row in found)


def test_nothing_to_rebuild_is_one_line(tmp_path: Path) -> None:
    done = rebuild(tmp_path / "runs.csv")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    done = rebuild(tmp_path / "other.csv")
    assert done.returncode == 2
    assert "no columns of runs.csv" in done.stderr
    assert (tmp_path / "other.csv").read_text() == "a,b\n1,2\n"


@pytest.mark.parametrize("name", ["no/such.csv", ".", "pipe", "other.csv", "results.csv"])
def test_what_is_no_runs_csv_is_refused_before_anything_is_written(
    tmp_path: Path, name: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "other.csv").write_text("# A page\n\nof text\n")
    (tmp_path / "results").write_text("no folder\n")
    before = sorted(tmp_path.rglob("*"))
    done = rebuild(tmp_path / name)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert not tmp_path.with_name(f"{tmp_path.name}.lock").exists()
