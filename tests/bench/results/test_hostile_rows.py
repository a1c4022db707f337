"""runs.csv as editors, spreadsheets, crashes and malice leave it."""

import csv
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.common.errors import InputError
from bench.plan.columns import BY_NAME, LARGEST, NAMES, VALUES
from bench.plan.rows import FLAGS, STATUSES
from bench.results.rowfile import encode, record
from bench.results.store import Store, read_rows
from tests.bench.synthetic_rows import cell, failed_row, result_row
from tests.hostile import TEXTS, answer, check_line, damaged, examples, sparse

ROWS = [
    result_row(cell("full", None, None, "off"), random.Random(0)),  # noqa: S311
    failed_row(cell("lora", 8, "attn", "bf16"), "crashed", 'a "b", c\r\nd\ne'),
    result_row(cell("dora", 1, "all-lin", "off", 3), random.Random(1), flags="throttled"),  # noqa: S311
]


def silent(_line):
    """Takes the note about a torn record."""


def put(path, name, text, before=0):
    """A file whose last row has a text in one field; returns its path."""
    fields = next(csv.reader([encode(ROWS[0]).decode()]))
    fields[NAMES.index(name)] = text
    path.write_bytes(record(NAMES) + encode(ROWS[0]) * before + record(fields))
    return path


def read(path):
    return answer(lambda: read_rows(path, silent), InputError, path)


def as_read(row):
    """A row with its numbers to seven digits, as they are in the file."""
    names = (name for name in NAMES if name != "scale")  # which follows from others
    numbers = {name: value for name in names if isinstance(value := row[name], float)}
    return row | {name: float(f"{value:.7g}") for name, value in numbers.items()}


EXPECTED = as_read(ROWS[0])
WHOLE = record(NAMES) + b"".join(map(encode, ROWS))


@examples(120)
@given(content=damaged(WHOLE))
def test_a_damaged_file_gives_rows_or_names_its_line(tmp_path, content):
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    for row in answer(lambda: read_rows(path, silent), InputError, f"{path}, line ") or []:
        assert as_read(row) == row
        encode(row)


@examples(100)
@given(
    name=st.sampled_from([name for name in NAMES if name != "schema"]),
    text=st.text(max_size=8)
    | st.integers(-(10**29), 10**29).map(str)
    | st.floats(-1e29, 1e29).map("{:.7g}".format)
    | st.sampled_from([*TEXTS[:-1], "NaN", "inf", "-inf", "1e31", "1e999", "9" * 5000, "1_0", "٣"])
    | st.sampled_from([*STATUSES, *FLAGS, "lora", "attn", "bf16", "0", "-1", " 1", "1.0", "0x1"]),
)
def test_a_field_is_read_as_it_is_written_or_named(tmp_path, name, text):
    path = put(tmp_path / "runs.csv", name, text)
    try:
        (row,) = read_rows(path, silent)
    except InputError as error:
        check_line(str(error), f"{path}, line 2: {name}")
        return
    if name == "scale":  # it follows from others
        return
    assert row | {name: EXPECTED[name]} == EXPECTED
    path.write_bytes(record(NAMES) + encode(row))
    assert read_rows(path, silent) == [as_read(row)]
    value = row[name]
    if value is None:
        assert text == ""
    elif BY_NAME[name].kind is str:
        assert value in (text, text[1:])
        if name != "mode":  # a plugin may have the mode: see test_plugins
            assert str(value) in VALUES.get(name, (value,))
    else:
        assert value == BY_NAME[name].kind(text)
        assert abs(float(value)) < LARGEST


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("device", "cuda:1;touch x;echo "), ("device", "cuda:0,cuda:1"), ("peak_rss_mib", "0"),
        ("ms_per_1k_tokens", "-0.0"), ("learning_rate", "-1"), ("train_s", "1e-320"),
        ("status", "done"), ("flags", "throttled slow"), ("layers", "attn;x"), ("adapter", "../x"),
        ("train_s", "nan"), ("dev_score", "-inf"), ("train_s", "1e31"), ("dev_score", "1e999"),
        ("seed", "inf"), ("rank", "9" * 5000), ("attempt", "x" * 10**6),
        ("amp", "loraa"),
    ],
)  # fmt: skip
def test_a_value_that_can_not_be_is_named_by_line_and_column(tmp_path, name, text):
    path = put(tmp_path / "runs.csv", name, text, before=3)
    with pytest.raises(InputError) as caught:
        read_rows(path, silent)
    check_line(str(caught.value), f"{path}, line 5: {name}: ")
    assert text != "loraa" or ", ".join(VALUES[name]) in str(caught.value)


@examples(50)
@given(text=st.text("'=+-@\t\ra ", max_size=6) | st.sampled_from(TEXTS[:-1]))
def test_no_spreadsheet_computes_a_text_and_we_read_it_as_it_was(tmp_path, text):
    path = tmp_path / "runs.csv"
    path.unlink(missing_ok=True)
    row = ROWS[1] | {"message": text or None, "model": f"={text}", "grid": text or None}
    Store(path).append(row)
    assert read_rows(path, silent) == [as_read(row)]
    with path.open(newline="", encoding="utf-8") as file:
        _, fields = csv.reader(file)
    for name, field in zip(NAMES, fields, strict=True):
        if BY_NAME[name].kind is str:
            assert field[:1] not in ("=", "+", "-", "@", "\t", "\r")


@pytest.mark.parametrize("kind", ["pipe", "folder", "zero", "null"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "runs.csv"
    if kind in ("zero", "null"):
        path.symlink_to(f"/dev/{kind}")
    else:
        os.mkfifo(path) if kind == "pipe" else path.mkdir()
    assert read(path) is None
    with pytest.raises(InputError):
        assert Store(path).rows


def test_what_is_too_large_or_named_strangely_is_refused(tmp_path):
    path = tmp_path / "runs.csv"
    sparse(path, 2**36)
    assert read(path) is None
    path.write_bytes(WHOLE)
    with path.open("r+b") as file:
        file.truncate(2**36)
    assert read(path) is None
    headers = [record(names) for text in TEXTS[:-1] for names in ([*NAMES, text], [text] * 1000)]
    for content in (*headers, WHOLE + b"," * 10**6 + b"\r\n"):
        path.write_bytes(content)
        assert read(path) is None
