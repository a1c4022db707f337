"""python -m bench.compare on files: exit codes, what is printed, and what is written."""

import json
import random
import re
import shlex
import sys
from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.common.command import run_command
from bench.compare.__main__ import command
from bench.plan.columns import NAMES, format_value
from bench.report.__main__ import main as report
from bench.results.rowfile import record
from tests.bench.synthetic_rows import cell, full_grid, result_row
from tests.reference_run import copy_reference

AXES = [*full_grid()[:2], *full_grid()[20:24]]


def rows_of(seed=0, repeats=3, seeds=3, **other):
    """Rows of six settings, with repeats whose times differ by 2%."""
    noise = random.Random(seed)  # noqa: S311
    return [
        result_row(cell(*axes, seed=number), noise, repeat=repeat, **other)
        for axes, number, repeat in product(AXES, range(seeds), range(1, repeats + 1))
    ]


def changed(rows, time=1.0, score=0.0, **other):
    """The rows with times multiplied and scores shifted."""
    times = [f"ms_per_1k_tokens{end}" for end in ("", "_ci_low", "_ci_high")]
    scores = ("dev_score", "dev_ci_low", "dev_ci_high")
    return [
        row | {name: row[name] * time for name in times}
        | {name: row[name] + score for name in scores} | other
        for row in rows
    ]  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, rows, names=NAMES):
    lines = (record(format_value(row[name]) for name in names) for row in rows)
    Path(name).write_bytes(record(names) + b"".join(lines))
    return name


def run(*arguments):
    done = CliRunner().invoke(command, arguments, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    done.exit_code = int(done.return_value)
    return done


def write_sides(**changes):
    rows = rows_of()
    write("a.csv", rows)
    write("b.csv", changed(rows, **changes))


def test_a_slower_and_worse_copy_fails_after_its_report_is_written(place):
    write_sides(time=1.5, score=-0.1)
    done = run("a.csv", "b.csv", "--reports", "there")
    assert done.exit_code == 1
    _, worse, *_, last = done.stdout.splitlines()
    assert re.search(r"1\.50 \(.*\) times as long.*dev score −0\.100", worse)
    assert last == "there/compare.html"
    assert "regression" in Path("there/compare.md").read_text("utf-8")
    data = json.loads(Path("there/compare.json").read_text("utf-8"))
    worse = {
        one["column"] for setting in data["settings"] for one in setting["measures"]
        if one["verdict"] == "regression" and one["gates"]
    }  # fmt: skip
    assert worse == {"ms_per_1k_tokens", "dev_score"}
    limits = ("--max-slowdown", "100%", "--max-score-drop", "20pt")
    assert run("a.csv", "b.csv", *limits).exit_code == 0
    better = run("b.csv", "a.csv")
    assert better.exit_code == 0
    assert "Improved: " in better.stdout


def test_undecided_passes_unless_strict(place):
    for name, seed in (("a.csv", 0), ("b.csv", 1)):
        write(name, rows_of(seed, repeats=1, seeds=1))
    assert run("a.csv", "b.csv").exit_code == 0
    done = run("a.csv", "b.csv", "--strict")
    assert done.exit_code == 1
    for words in ("Undecided: ", "which fails with --strict", "would decide it"):
        assert words in done.stdout


def test_a_time_of_another_session_is_worse_but_fails_only_if_strict(place):
    write_sides(time=1.5, started_at="2026-11-21T10:00:00Z")
    done = run("a.csv", "b.csv")
    assert done.exit_code == 0
    assert done.stdout.startswith("No regression shown in 6 settings.\n")
    assert re.search(r"not counted as a regression: .*time .*not measured in alt", done.stdout)
    assert run("a.csv", "b.csv", "--strict").exit_code == 1


def test_what_may_not_be_worse_passes_even_if_strict(place):
    rows = [row | {"dev_score": None, "peak_rss_mib": 1000.0} for row in rows_of()]
    noise = random.Random(1)  # noqa: S311
    write("a.csv", rows)
    write("b.csv", [row | {"peak_rss_mib": 980 * noise.gauss(1, 0.005)} for row in rows])
    done = run("a.csv", "b.csv", "--strict", "--json")
    data = json.loads(done.stdout)
    undecided = [
        one for setting in data["settings"] for one in setting["measures"]
        if one["verdict"] == "too few repeats"
    ]  # fmt: skip
    assert {one["may_be_worse"] for one in undecided} == {False}
    assert data == json.loads(Path("reports/compare.json").read_text("utf-8"))
    assert (done.exit_code, done.stderr) == (0, "")
    assert data["summary"][0] == "No regression in 6 settings."


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.csv", "missing.csv"],
        ["a.csv", "a.csv", "--max-slowdown", "5"],
        ["a.csv", "a.csv", "--reports", "a.csv/reports"],
        ["a.csv", "other.csv"],
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(place, arguments, monkeypatch, capsys):
    rows = rows_of(repeats=1)
    write("a.csv", rows)
    others = [row | {"data_digest": "other", "cell_id": f"x{row.cell_id}"} for row in rows]
    write("other.csv", others)
    monkeypatch.setattr(sys, "argv", ["compare", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_command(command)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert ("nothing to compare: " in printed.err) == ("other.csv" in arguments)
    assert {path.name for path in place.iterdir()} == {"a.csv", "other.csv"}


def test_the_committed_rows_against_themselves_by_another_metric(place):
    own = str(copy_reference(place))
    done = run(own, own, "--metric", "macro_f1", "--json")
    data = json.loads(done.stdout)
    assert re.fullmatch(r"No regression in \d\d+ settings\.", data["summary"][0])
    assert {each["metric"] for each in data["settings"]} == {"macro_f1"}
    assert "The dev score is: dev macro F1." in Path("reports/compare.md").read_text("utf-8")


def command_of_report(*files):
    done = CliRunner().invoke(report, ["--runs", *files, "--reports", "r"], standalone_mode=False)
    (note,) = (line for line in done.stderr.splitlines() if "bench.compare" in line)
    return shlex.split(note.partition("bench.compare ")[2])


def test_a_report_on_several_files_or_versions_names_the_command(place):
    rows = rows_of(repeats=1)
    later = {"code_version": "0.1.0 +g2", "started_at": "2026-12-01T10:00:00Z"}
    write("a b.csv", [*changed(rows, **later), *rows])
    assert command_of_report("a b.csv", "a b.csv") == ["a b.csv", "a b.csv"]
    versions = ["--base", "code_version=0.1.0", "--new", "code_version='0.1.0 +g2'"]
    assert command_of_report("a b.csv") == ["a b.csv", *versions]
    assert run("a b.csv", *versions).exit_code == 0
