"""Sides from files and filters, and limits with units; and what is refused, in one line."""

from pathlib import Path

import pytest

from bench.analysis.comparison import Limits
from bench.common.errors import InputError
from bench.compare.sides import limits, matching, parse_terms, read_sides
from bench.plan.columns import NAMES
from bench.results.rowfile import encode, record
from tests.bench.synthetic_rows import synthetic_rows
from tests.hostile import check_line

ROWS = synthetic_rows(68)


def write(path, rows=ROWS):
    path.write_bytes(record(NAMES) + b"".join(map(encode, rows)))
    return path


def chosen(text):
    return matching(ROWS, parse_terms(text, "--base"), "--base", Path("runs.csv"))


@pytest.mark.parametrize(
    ("text", "column", "values"),
    [
        ("amp=off", "amp", {"off"}),
        ("amp=on", "amp", {"bf16"}),
        ("mode=lora,dora", "mode", {"lora", "dora"}),
        ("rank=,1", "rank", {None, 1}),
        ("learning_rate=2e-4", "learning_rate", {0.0002}),
        ('machine="Xeon 2.8 GHz, 2 cores, 16 GiB"', "machine", {ROWS[0].machine}),
    ],
)
def test_a_filter_on_any_column(text, column, values):
    expected = [row for row in ROWS if row[column] in values]
    assert chosen(text) == expected != []


def test_terms_narrow_each_other_and_those_of_one_column_add_up():
    assert len(chosen("mode=lora rank=8 amp=off layers=attn mode=dora")) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("amp", "'amp' is not COLUMN=VALUE"),
        ("", "is empty"),
        ("ampp=off", "near it are amp"),
        ("zzzzzz=off", "is no column"),
        ("machine='Xeon", "close the quote"),
        ("rank=seven", "no row of runs.csv has rank=seven; the values are 1, 2, 4, 8, empty"),
        ("mode=head rank=8", "and the terms before it; the values are empty"),
        ("mode=lora mode=dorra", "has mode=dorra"),
        ("cell_id=x", "and 60 more"),
    ],
)
def test_a_filter_that_can_not_be_meant(text, expected):
    with pytest.raises(InputError) as caught:
        chosen(text)
    assert expected in str(caught.value)
    check_line(str(caught.value), "--base")


def test_two_files_and_two_filters(tmp_path):
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


@pytest.mark.parametrize(
    ("names", "base", "new", "expected"),
    [
        (["a.csv"], "amp=off", None, "give both --base and --new"),
        (["a.csv", "a.csv", "a.csv"], None, None, "and --new; not 3"),
        (["a.csv", "missing.csv"], None, None, "missing.csv: no such file of results"),
        (["a.csv", "."], None, None, "is a folder; name its runs.csv"),
        (["a.csv", "empty.csv"], None, None, "empty.csv: has no rows"),
        (["a.csv"], "amp=off", "mode=full", "1 row matches both --base and --new"),
    ],
)
def test_files_that_can_not_be_compared(tmp_path, names, base, new, expected):
    write(tmp_path / "a.csv")
    write(tmp_path / "empty.csv", [])
    with pytest.raises(InputError) as caught:
        read_sides([tmp_path / name for name in names], base, new, None)
    assert expected in str(caught.value)
    check_line(str(caught.value), "")


def test_limits_have_units():
    assert limits("5%", " 2.5 %", "0%", "0.5pt") == Limits(0.05, 0.025, 0.0, "0.5pt")


@pytest.mark.parametrize(
    "text",
    ["5", "-5%", "nan%", "nan", "inf%", "1e9%", "", "5pt", "5%%", "--5%"],
)
def test_a_share_that_is_no_limit(text):
    with pytest.raises(InputError, match=r"--max-slowdown: .*write it as 5%") as caught:
        limits(text, "2%", "2%", "0.5pt")
    check_line(str(caught.value), "--max-slowdown")
    assert ("has no unit" in str(caught.value)) == (text in ("5", "nan"))


@pytest.mark.parametrize("text", ["0.5", "0pt", "nanpt", "101pt", "5MB"])
def test_a_score_that_is_no_limit(text):
    with pytest.raises(InputError, match=r"--max-score-drop: .*0\.5pt or 1%"):
        limits("5%", "2%", "2%", text)
