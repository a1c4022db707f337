"""python -m bench.compare on files: sides and limits, exit codes, what is printed and written."""

import json
import random
import re
import shlex
import sys
from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.analysis.comparison import Limits
from bench.common.command import run_command
from bench.common.errors import InputError
from bench.compare.__main__ import command
from bench.compare.sides import limits, matching, parse_terms, read_sides
from bench.report import __main__ as report
from tests.bench.synthetic_rows import cell, full_grid, result_row, synthetic_rows, write_rows
from tests.hostile import check_line
from tests.reference_run import copy_reference

ROWS = synthetic_rows(68)


def rows_of(seed=0, repeats=3, seeds=3, **other):
    """Rows of six settings, with repeats whose times differ by 2%."""
    noise, settings = random.Random(seed), [*full_grid()[:2], *full_grid()[20:24]]  # noqa: S311
    return [
        result_row(cell(*axes, seed=number), noise, repeat=repeat, **other)
        for axes, number, repeat in product(settings, range(seeds), range(1, repeats + 1))
    ]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, rows):
    write_rows(Path(name), rows)
    return name


def run(*arguments):
    done = CliRunner().invoke(command, arguments, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    done.exit_code = int(done.return_value)
    return done


def write_sides(time=1.0, score=0.0, **other):
    """Files of rows and of their copies with times multiplied and scores shifted."""
    rows = rows_of()
    write("a.csv", rows)
    write("b.csv", [
        row | {"ms_per_1k_tokens": row.ms_per_1k_tokens * time, "dev_score": row.dev_score + score}
        | other for row in rows
    ])  # fmt: skip


def test_a_slower_and_worse_copy_fails_after_its_report_is_written(place):
    write_sides(time=1.5, score=-0.1)
    done = run("a.csv", "b.csv", "--reports", "there")
    assert done.exit_code == 1
    _, worse, *_, last = done.stdout.splitlines()
    assert re.search(r"1\.50 \(.*\) times as long.*dev score −0\.100", worse)
    assert last == "there/compare.html"
    assert "regression" in Path("there/compare.md").read_text("utf-8")
    limits = ("--max-slowdown", "100%", "--max-score-drop", "20pt")
    assert run("a.csv", "b.csv", *limits).exit_code == 0
    better = run("b.csv", "a.csv")
    assert better.exit_code == 0
    assert "Improved: " in better.stdout


def test_what_is_undecided_or_of_another_session_fails_only_if_strict(place):
    for name, seed in (("a.csv", 0), ("b.csv", 1)):
        write(name, rows_of(seed, repeats=1, seeds=1))
    assert run("a.csv", "b.csv").exit_code == 0
    done = run("a.csv", "b.csv", "--strict")
    assert done.exit_code == 1
    for words in ("Undecided: ", "which fails with --strict", "would decide it"):
        assert words in done.stdout
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
    measures = [one for setting in data["settings"] for one in setting["measures"]]
    undecided = (one for one in measures if one["verdict"] == "too few repeats")
    assert {one["may_be_worse"] for one in undecided} == {False}
    assert data == json.loads(Path("reports/compare.json").read_text("utf-8"))
    assert (done.exit_code, done.stderr) == (0, "")
    assert data["summary"][0] == "No regression in 6 settings."


@pytest.mark.parametrize(
    "arguments", [["a.csv", "a.csv", "--reports", "a.csv/reports"], ["a.csv", "other.csv"]]
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
    data = json.loads(run(own, own, "--metric", "macro_f1", "--json").stdout)
    assert re.fullmatch(r"No regression in \d\d+ settings\.", data["summary"][0])
    assert {each["metric"] for each in data["settings"]} == {"macro_f1"}
    assert "The dev score is: dev macro F1." in Path("reports/compare.md").read_text("utf-8")


def test_the_note_of_a_report_names_the_command_for_several_files_or_versions(place):
    rows = rows_of(repeats=1)
    later = {"code_version": "0.1.0 +g2", "started_at": "2026-12-01T10:00:00Z"}
    rows = [*(row | later for row in rows), *rows]
    write("a b.csv", rows)
    versions = ["--base", "code_version=0.1.0", "--new", "code_version='0.1.0 +g2'"]
    for files, words in ((["a b.csv"] * 2, ["a b.csv"] * 2), (["a b.csv"], ["a b.csv", *versions])):
        note = report._comparison([*map(Path, files)], rows)
        assert shlex.split(note.partition("bench.compare ")[2]) == words
    assert run("a b.csv", *versions).exit_code == 0


def test_two_files_and_filters_on_any_column(tmp_path):
    for text, column, values in (
        ("amp=off", "amp", {"off"}), ("amp=on", "amp", {"bf16"}), ("rank=,1", "rank", {None, 1}),
        ("mode=lora,dora", "mode", {"lora", "dora"}),
        ("learning_rate=1.41e-4", "learning_rate", {0.000141}),
        (f'machine="{ROWS[0].machine}"', "machine", {ROWS[0].machine}),
    ):  # fmt: skip
        chosen = matching(ROWS, parse_terms(text, "--base"), "--base", Path("runs.csv"))
        assert chosen == [row for row in ROWS if row[column] in values] != []
    base = write(tmp_path / "a.csv", ROWS[:10])
    new = write(tmp_path / "b.csv", ROWS[:20])
    one, other, named = read_sides([base, new], None, None, None)
    assert (len(one.rows), len(other.rows), named) == (10, 20, frozenset())
    one, other, named = read_sides([new], "amp=off", "amp=bf16", None)
    assert {row.amp for row in one.rows} == {"off"}
    assert {row.amp for row in other.rows} == {"bf16"}
    assert named == {"amp"}
    assert one.name == "b.csv amp=off"
    _, _, named = read_sides([new], "amp=off mode=full,head", "amp=bf16 mode=head,full", None)
    assert named == {"amp"}, "what both sides select alike does not differ"
    one, other, named = read_sides([base, new], "amp=off", None, None)
    assert ({row.amp for row in one.rows}, len(other.rows)) == ({"off"}, 20)
    within = "mode=lora rank=8 amp=off layers=attn mode=dora"
    one, *_ = read_sides([write(tmp_path / "all.csv", ROWS), new], within, None, None)
    assert len(one.rows) == 2, "terms narrow each other, and those of one column add up"


@pytest.mark.parametrize(("names", "base", "new", "expected"), [
    *[(["runs.csv"], base, "mode=full", expected) for base, expected in (
        ("amp", "'amp' is not COLUMN=VALUE"), ("", "is empty"),
        ("ampp=off", "near it are amp"), ("zzzzzz=off", "is no column"),
        ("machine='Xeon", "close the quote"),
        ("rank=seven", "no row of runs.csv has rank=seven; the values are 1, 2, 4, 8, empty"),
        ("mode=head rank=8", "and the terms before it; the values are empty"),
        ("mode=lora mode=dorra", "has mode=dorra"),
        ("cell_id=x", "and 60 more"),
        ("amp=off", "1 row matches both --base and --new"),
    )],
    (["runs.csv"], "amp=off", None, "give both --base and --new"),
    (["runs.csv"] * 3, None, None, "and --new; not 3"),
    (["runs.csv", "missing.csv"], None, None, "missing.csv: no such file of results"),
    (["runs.csv", "."], None, None, "is a folder; name its runs.csv"),
    (["runs.csv", "empty.csv"], None, None, "empty.csv: has no rows"),
])  # fmt: skip
def test_filters_and_files_that_can_not_be_compared(place, names, base, new, expected):
    write("runs.csv", ROWS)
    write("empty.csv", [])
    with pytest.raises(InputError) as caught:
        read_sides([*map(Path, names)], base, new, None)
    assert expected in str(caught.value)
    check_line(str(caught.value), "--base" if new else "")


def test_limits_have_units():
    assert limits("5%", " 2.5 %", "0%", "0.5pt") == Limits(0.05, 0.025, 0.0, "0.5pt")
    for text in ("5", "-5%", "nan%", "nan", "inf%", "1e9%", "", "5pt", "5%%", "--5%"):
        with pytest.raises(InputError, match=r"--max-slowdown: .*write it as 5%") as caught:
            limits(text, "2%", "2%", "0.5pt")
        check_line(str(caught.value), "--max-slowdown")
        assert ("has no unit" in str(caught.value)) == (text in ("5", "nan"))
    for text in ("0.5", "0pt", "nanpt", "101pt", "5MB"):
        with pytest.raises(InputError, match=r"--max-score-drop: .*0\.5pt or 1%"):
            limits("5%", "2%", "2%", text)
