"""Results and step times as workers and crashes leave them."""

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.launch.again import orphaned_outcome
from bench.plan.columns import NAMES, values_of
from bench.plan.rows import SCHEMA
from bench.results.protocol import parse_result
from bench.results.row import measured_row, step_times
from bench.results.rowfile import encode, record
from bench.results.store import read_rows
from tests.bench.synthetic_rows import HERE, cell
from tests.bench.tiny_cells import job_of
from tests.hostile import (
    JSON,
    NEAR_THE_LIMIT,
    changed,
    check_line,
    damaged,
    examples,
    nested,
    sparse,
)

CELL = cell("lora", 8, "attn", "off")
CONDITIONS = HERE | {"conditions_id": "here"}
RESULT = {
    "schema": 1,
    "status": "ok",
    "flags": ["throttled"],
    "message": "",
    "columns": {
        "params_total": 100, "steps_timed": 3, "train_s": 1.5, "dev_metric": "accuracy",
        "dev_score": 0.5, "dev_loss": 1.2, "train_loss": 1.1, "peak_rss_mib": 300.5,
    },
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


def row_of(folder, result):
    return measured_row(
        CELL,
        CONDITIONS,
        columns={**result["columns"], "grid": "g", "attempt": 1, "wall_s": 2.0},
        status=result["status"],
        flags=result["flags"],
        message=result["message"],
        folder=folder,
        dev_examples={"movies": 50},
        majority_score=0.3,
    )


def check_row(folder, row):
    own = {**CELL.columns(), **CONDITIONS, "schema": SCHEMA, "attempt": 1, "grid": "g"}
    assert {name: row[name] for name in own} == own
    assert all(math.isfinite(v) for v in values_of(row).values() if isinstance(v, float))
    path = folder / "runs.csv"
    path.write_bytes(record(NAMES) + encode(row))
    (found,) = read_rows(path)
    assert found["cell_id"] == CELL.cell_id
    assert found["status"] == row["status"]


# result.json


COLUMNS = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4).map(
    lambda columns: {**RESULT, "columns": {**RESULT["columns"], **columns}}
)


@examples(150)
@given(values=changed(RESULT) | COLUMNS)
def test_a_changed_result_is_refused_or_makes_a_row(tmp_path, values):
    (tmp_path / "panel.csv").write_text(PANEL)
    try:
        result = parse_result(json.dumps(values))
    except ValueError as error:
        check_line(str(error), "")
        return
    check_row(tmp_path, row_of(tmp_path, result))


def test_a_result_says_nothing_of_which_cell_it_is(tmp_path):
    other = {
        "cell_id": "other", "conditions_id": "there", "schema": 1, "mode": "full", "seed": 9,
        "rank": 1, "device": "cuda:0", "status": "crashed", "flags": "disturbed", "message": "x",
        "model": "other", "learning_rate": 9.0,
    }  # fmt: skip
    columns = {**RESULT["columns"], **other}
    result = parse_result(json.dumps({**RESULT, "columns": columns}))
    row = row_of(tmp_path, result)
    check_row(tmp_path, row)
    assert (row["status"], row["flags"]) == ("ok", "throttled")


@pytest.mark.parametrize(
    ("name", "value"), [("train_loss", math.nan), ("dev_score", math.inf), ("train_s", -math.inf)]
)
def test_a_number_that_is_not_finite_makes_a_result_invalid(tmp_path, name, value):
    columns = {**RESULT["columns"], name: value}
    result = parse_result(json.dumps({**RESULT, "columns": columns}))
    assert (result["status"], result["message"]) == ("invalid", f"its {name} is {value}")
    assert row_of(tmp_path, result)[name] is None
    failed = {**RESULT, "status": "oom", "message": "no memory", "columns": columns}
    result = parse_result(json.dumps(failed))
    assert (result["status"], result["message"]) == ("oom", "no memory")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dev_score", 1.01), ("dev_score", -0.1), ("dev_metric", "luck"), ("train_s", 1e31),
        ("steps_timed", 10**400), ("params_total", 1.5), ("started_at", [1]),
        *(("device_failed", value) for value in ("yes", 1, None, [])),
        *(("save_s", value) for value in ("1", True, None, -1, math.nan, math.inf, 10**400)),
    ],
)  # fmt: skip
def test_a_value_that_can_not_be_is_named(field, value):
    usual = parse_result(json.dumps(RESULT))
    assert (usual["device_failed"], usual["save_s"]) == (False, 0.0)
    of_columns = {**RESULT, "columns": {**RESULT["columns"], field: value}}
    values = of_columns if field in NAMES else {**RESULT, field: value}
    with pytest.raises(ValueError, match=field):
        parse_result(json.dumps(values))
    low = {"dev_metric": "pearson", "dev_score": -1.5}
    with pytest.raises(ValueError, match="dev_score"):
        parse_result(json.dumps({**RESULT, "columns": low}))


def test_nesting_of_any_depth_is_refused():
    for depth in (*NEAR_THE_LIMIT, 200_000):
        inside = f'{{"status": "ok", "columns": {{"train_s": {nested(depth)}}}}}'
        for text in (nested(depth), inside):
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


@pytest.mark.parametrize("kind", ["pipe", "huge"])
def test_what_is_no_result_is_run_again(tmp_path, kind):
    (tmp_path / "cell.json").write_text(JOB.to_json())
    put(tmp_path / "result.json", kind)
    assert orphaned_outcome(tmp_path, JOB) is None


# panel.csv


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


def put(path, kind):
    os.mkfifo(path) if kind == "pipe" else sparse(path, 2**36)


@pytest.mark.parametrize(("name", "kind"), [("panel.csv", "pipe"), ("steps.csv", "huge")])
def test_what_is_no_file_of_steps_gives_no_times(tmp_path, name, kind):
    put(tmp_path / name, kind)
    row = row_of(tmp_path, parse_result(json.dumps(RESULT)))
    assert row["step_ms_median"] is None
    encode(row)
