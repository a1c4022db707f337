"""Results, step times and runs.csv as workers, crashes, editors and malice leave them."""

import csv
import json
import math
import os
import random
from functools import partial
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.common.errors import InputError
from bench.launch.again import orphaned_outcome
from bench.plan.columns import BY_NAME, NAMES, VALUES, values_of
from bench.plan.rows import SCHEMA
from bench.results.protocol import parse_result
from bench.results.row import measured_row, step_times
from bench.results.rowfile import encode, record
from bench.results.store import Store, read_rows
from tests import hostile
from tests.bench.synthetic_rows import HERE, cell, failed_row, result_row
from tests.bench.tiny_cells import job_of
from tests.hostile import JSON, TEXTS, changed, check_line, damaged, examples

CELL = cell("lora", 8, "attn", "off")
CONDITIONS = HERE | {"conditions_id": "here"}
RESULT = {
    "schema": 1, "status": "ok", "flags": ["throttled"], "message": "",
    "columns": {
        "params_total": 100, "steps_timed": 3, "train_s": 1.5, "dev_metric": "accuracy",
        "dev_score": 0.5, "dev_loss": 1.2, "train_loss": 1.1, "peak_rss_mib": 300.5,
    },
}  # fmt: skip
OTHER_CELL = {
    "cell_id": "other", "conditions_id": "there", "schema": 1, "mode": "full", "seed": 9,
    "rank": 1, "device": "cuda:0", "status": "crashed", "flags": "disturbed", "message": "x",
    "model": "other", "learning_rate": 9.0,
}  # fmt: skip
PANEL = """pass,batch,ms,tokens,examples,counts,settled
0,0,90.5,100,2,0,1
1,0,11.25,100,2,1,1
2,0,11.75,100,2,1,1
3,0,11.5,100,2,1,1
"""
STEPS = "step,ms,tokens,padded,examples,loss\n" + "".join(
    f"{n},{40 + n % 3}.5,{300 + n},{300 + n},8,0.5\n" for n in range(1, 98)
)
JOB = job_of(CELL, Path("/a/b"))
NO_FILES = {
    "pipe": os.mkfifo, "folder": os.mkdir, "huge": partial(hostile.sparse, size=2**36),
    "zero": partial(os.symlink, "/dev/zero"), "null": partial(os.symlink, "/dev/null"),
}  # fmt: skip
ROWS = [
    result_row(cell("full", None, None, "off")),
    failed_row(cell("lora", 8, "attn", "bf16"), "crashed", 'a "b", c\r\nd\ne'),
    result_row(cell("dora", 1, "all-lin", "off", 3), random.Random(1), flags="throttled"),  # noqa: S311
]


def row_of(folder, result):
    return measured_row(
        CELL, CONDITIONS, folder=folder, dev_examples={"movies": 50}, majority_score=0.3,
        columns={**result["columns"], "grid": "g", "attempt": 1, "wall_s": 2.0},
        **{name: result[name] for name in ("status", "flags", "message")},
    )  # fmt: skip


def check_row(folder, row):
    own = {**CELL.columns(), **CONDITIONS, "schema": SCHEMA, "attempt": 1, "grid": "g"}
    assert {name: row[name] for name in own} == own
    assert all(math.isfinite(v) for v in values_of(row).values() if isinstance(v, float))
    path = folder / "runs.csv"
    path.write_bytes(record(NAMES) + encode(row))
    (found,) = read_rows(path)
    assert found["cell_id"] == CELL.cell_id
    assert found["status"] == row["status"]


def with_columns(columns):
    return {**RESULT, "columns": {**RESULT["columns"], **columns}}


COLUMNS = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4).map(with_columns)


@examples(150)
@example(values=with_columns(OTHER_CELL))
@given(values=changed(RESULT) | COLUMNS)
def test_a_changed_result_is_refused_or_makes_a_row_of_its_own_cell(tmp_path, values):
    (tmp_path / "panel.csv").write_text(PANEL)
    try:
        result = parse_result(json.dumps(values))
    except ValueError as error:
        check_line(str(error), "")
        return
    row = row_of(tmp_path, result)
    check_row(tmp_path, row)
    assert row["status"] == result["status"]
    in_doubt = {"not_learned", "unstable_timing"}
    assert {*(row["flags"] or "").split()} - in_doubt == {*result["flags"]} - in_doubt


@pytest.mark.parametrize(("field", "value"), [
    ("dev_score", 1.01), ("dev_score", -0.1), ("dev_metric", "luck"), ("train_s", 1e31),
    ("steps_timed", 10**400), ("params_total", 1.5), ("started_at", [1]),
    ("status", "done"), ("message", 5), ("flags", ["slow"]), ("columns", []),
    *(("device_failed", value) for value in ("yes", 1, None, [])),
    *(("save_s", value) for value in ("1", True, None, -1, math.nan, math.inf, 10**400)),
])  # fmt: skip
def test_a_value_that_can_not_be_is_named(field, value):
    of_columns = field in {*NAMES} - {*RESULT}
    values = with_columns({field: value}) if of_columns else {**RESULT, field: value}
    with pytest.raises(ValueError, match=field):
        parse_result(json.dumps(values))


def test_numbers_that_are_not_finite_make_a_result_invalid_and_nesting_is_refused(tmp_path):
    usual = parse_result(json.dumps(RESULT))
    assert (usual["device_failed"], usual["save_s"]) == (False, 0.0)
    for name, value in (("train_loss", math.nan), ("dev_score", math.inf), ("train_s", -math.inf)):
        values = with_columns({name: value})
        result = parse_result(json.dumps(values))
        assert (result["status"], result["message"]) == ("invalid", f"its {name} is {value}")
        assert row_of(tmp_path, result)[name] is None
        result = parse_result(json.dumps({**values, "status": "oom", "message": "no memory"}))
        assert (result["status"], result["message"]) == ("oom", "no memory")
    with pytest.raises(ValueError, match="dev_score"):
        parse_result(json.dumps(with_columns({"dev_metric": "pearson", "dev_score": -1.5})))
    for depth in (*hostile.NEAR_THE_LIMIT, 200_000):
        nested = hostile.nested(depth)
        for text in (nested, f'{{"status": "ok", "columns": {{"train_s": {nested}}}}}'):
            with pytest.raises(ValueError, match=r"it is|its train_s"):
                parse_result(text)


@examples(100)
@given(content=damaged(json.dumps(RESULT).encode()))
def test_an_orphaned_result_is_taken_over_or_run_again(tmp_path, content):
    (tmp_path / "cell.json").write_text(JOB.to_json())
    (tmp_path / "panel.csv").write_text(PANEL)
    (tmp_path / "result.json").write_bytes(content)
    outcome = orphaned_outcome(tmp_path, JOB)
    if outcome is not None:
        assert outcome.status == "ok"
        check_row(tmp_path, row_of(tmp_path, outcome.result))


@pytest.mark.parametrize(("name", "content"), [("panel.csv", PANEL), ("steps.csv", STEPS)])
@examples(100)
@given(data=st.data())
def test_damaged_times_give_times_or_none(tmp_path, name, content, data):
    (tmp_path / name).write_bytes(data.draw(damaged(content.encode())))
    if columns := step_times(tmp_path)[0]:
        middle, low, high = (columns[f"step_ms_{n}"] for n in ("median", "ci_low", "ci_high"))
        assert 0 < middle < math.inf
        assert low is None or low <= middle <= high
        assert 0 < columns["ms_per_1k_tokens"] < math.inf


def silent(_line):
    """Takes the note about a torn record."""


def as_read(row):
    """A row with its numbers to seven digits, as they are in the file."""
    names = (name for name in NAMES if name != "scale")  # which follows from others
    numbers = {name: value for name in names if isinstance(value := row[name], float)}
    return row | {name: float(f"{value:.7g}") for name, value in numbers.items()}


@examples(120)
@given(content=damaged(record(NAMES) + b"".join(map(encode, ROWS))))
def test_a_damaged_file_gives_rows_or_names_its_line(tmp_path, content):
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    rows = hostile.answer(lambda: read_rows(path, silent), InputError, f"{path}, line ")
    for row in rows or []:
        assert as_read(row) == row
        encode(row)


@examples(100)
@given(words=st.text("'=+-@\t\ra ", max_size=6) | st.sampled_from(TEXTS[:-1]))
def test_texts_are_read_as_written_and_no_spreadsheet_computes_them(tmp_path, words):
    path = tmp_path / "runs.csv"
    row = ROWS[1] | {"message": words or None, "model": f"={words}", "grid": words or None}
    path.write_bytes(record(NAMES) + encode(row))
    assert read_rows(path, silent) == [as_read(row)]
    with path.open(newline="", encoding="utf-8") as file:
        _, fields = csv.reader(file)
    for name, field in zip(NAMES, fields, strict=True):
        if BY_NAME[name].kind is str:
            assert field[:1] not in ("=", "+", "-", "@", "\t", "\r")


@pytest.mark.parametrize(("name", "text"), [
    ("device", "cuda:1;touch x;echo "), ("device", "cuda:0,cuda:1"), ("peak_rss_mib", "0"),
    ("ms_per_1k_tokens", "-0.0"), ("learning_rate", "-1"), ("train_s", "1e-320"),
    ("status", "done"), ("flags", "throttled slow"), ("layers", "attn;x"), ("adapter", "../x"),
    ("train_s", "nan"), ("dev_score", "-inf"), ("train_s", "1e31"), ("dev_score", "1e999"),
    ("seed", "inf"), ("rank", "9" * 5000), ("attempt", "x" * 10**6),
    ("amp", "loraa"), ("rank", "0x1"),
])  # fmt: skip
def test_a_value_that_can_not_be_is_named_by_line_and_column(tmp_path, name, text):
    path, fields = tmp_path / "runs.csv", next(csv.reader([encode(ROWS[0]).decode()]))
    fields[NAMES.index(name)] = text
    path.write_bytes(record(NAMES) + encode(ROWS[0]) * 3 + record(fields))
    with pytest.raises(InputError) as caught:
        read_rows(path, silent)
    check_line(str(caught.value), f"{path}, line 5: {name}: ")
    assert text != "loraa" or ", ".join(VALUES[name]) in str(caught.value)


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
def test_what_is_no_file_or_too_large_is_not_waited_for(tmp_path, make):
    path, panel = tmp_path / "runs.csv", tmp_path / "panel.csv"
    (tmp_path / "cell.json").write_text(JOB.to_json())
    for each in (path, panel, tmp_path / "result.json"):
        make(each)
    assert orphaned_outcome(tmp_path, JOB) is None
    assert step_times(tmp_path) == ({}, True)
    panel.rename(tmp_path / "steps.csv")
    assert step_times(tmp_path) == ({}, True)
    assert hostile.answer(lambda: read_rows(path, silent), InputError, path) is None
    with pytest.raises(InputError):
        assert Store(path).rows
