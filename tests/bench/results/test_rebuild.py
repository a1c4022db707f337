"""runs.csv rebuilt from its cells' folders, and brought up to date from an older schema."""

import json
import os

import pytest
from click.testing import CliRunner

from bench.common.errors import InputError
from bench.results.rebuild import main
from bench.results.row import keep_row
from bench.results.store import Store, cell_folder, read_rows
from tests.bench.synthetic_rows import synthetic_rows


def keep(path, *rows):
    for row in rows:
        keep_row(cell_folder(path, f"{row.mode}-cell", *row.row_key), row)


def fill(path, rows):
    Store(path).append(*rows)
    keep(path, *rows)
    return read_rows(path)


def rebuild(path):
    """The numbers of rows that the command prints, and its notes."""
    done = CliRunner().invoke(
        main, ["--runs", str(path), "--json"], standalone_mode=False, catch_exceptions=False
    )
    return json.loads(done.stdout), done.stderr


def test_a_lost_file_comes_back_with_attempts_and_repeats(tmp_path):
    path = tmp_path / "runs.csv"
    [row, *others] = synthetic_rows(6)
    every = [row | {"repeat": n, "attempt": m} for n in (1, 2) for m in (1, 2)] + others
    rows = sorted(fill(path, every), key=str)
    assert len([each for each in (tmp_path / "runs").iterdir() if each.is_dir()]) == 9
    path.unlink()
    assert rebuild(path)[0] == {"kept": 0, "from_folders": 9, "left_out": 0}
    assert sorted(read_rows(path), key=str) == rows
    done = CliRunner().invoke(main, ["--runs", str(path)])
    assert done.stdout == f"9 rows in {path}: 9 kept, 0 from folders\n"
    assert sorted(read_rows(path), key=str) == rows


def test_rows_of_two_versions_with_one_key_both_stay(tmp_path):
    """As in a file that was put together from two machines' or two checkouts'."""
    path = tmp_path / "runs.csv"
    [row] = synthetic_rows(1)
    newer = row | {"code_version": "0.2.0", "repeat": 1}
    Store(path).append(row | {"repeat": 1}, newer)
    before = path.read_bytes()
    rebuild(path)
    assert path.read_bytes() == before, "rows without a folder stay in their order"
    keep(path, newer | {"code_version": "0.3.0"})
    rebuild(path)
    assert [each["code_version"] for each in read_rows(path)] == ["0.1.0", "0.2.0", "0.3.0"]


def test_a_broken_line_is_reported_left_out_and_kept(tmp_path):
    """Its row is taken from its folder, as is that of a last line that was cut."""
    path = tmp_path / "runs.csv"
    good = sorted(fill(path, synthetic_rows(4)), key=str)
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace(",ok,", ",fine,", 1)
    path.write_text("".join(lines) + '1,"torn')
    torn = path.read_bytes()
    for line, left_out in ((3, 2), (5, 1)):
        counts, notes = rebuild(path)
        assert counts == {"kept": 3, "from_folders": 1, "left_out": left_out}
        assert f"line {line}" in notes
        assert sorted(read_rows(path), key=str) == good
        if line == 3:
            assert (tmp_path / "runs.csv.before").read_bytes() == torn
        path.write_bytes(path.read_bytes()[:-5])  # inside finished_at


@pytest.mark.parametrize("name", ["runs.csv", "no/x.csv", ".", "pipe", "other.csv", "results.csv"])
def test_what_is_no_runs_csv_is_refused_before_anything_is_written(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "other.csv").write_text("# A page\n\nof text\n")
    (tmp_path / "results").write_text("no folder\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        rebuild(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert ("no columns of runs.csv" in str(caught.value)) == (name == "other.csv")
    assert sorted(tmp_path.rglob("*")) == before
    assert not tmp_path.with_name(f"{tmp_path.name}.lock").exists()
