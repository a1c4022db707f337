"""cell.json as people and crashes leave it, and names that would lead out of a cell's folder."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.common.errors import InputError
from bench.plan.job import Job
from bench.results.store import cell_folder, cells_folder
from tests.bench.synthetic_rows import cell
from tests.hostile import (
    NEAR_THE_LIMIT,
    TEXTS,
    answer,
    changed,
    damaged,
    examples,
    nested,
    sparse,
)

CELL = cell("lora", 8, "attn", "off")

JOB = Job(
    cell=CELL, conditions_id="here", attempt=1, device="cpu", threads=2, checkpoint="/a/b",
    geometry=None, tokenizer="/a/b", data=None, keep=False, code_version="0.1.0",
)  # fmt: skip


def read_job(folder):
    return answer(lambda: Job.read(folder), InputError, folder / "cell.json")


def test_a_job_comes_back_as_it_was(tmp_path):
    for of in (CELL, cell("full", None, None, "bf16"), cell("head", None, None, "off", 7)):
        job = replace(JOB, cell=of, data="/x", keep=True)
        (tmp_path / "cell.json").write_text(job.to_json())
        assert Job.read(tmp_path) == job


@examples(150)
@given(values=changed(json.loads(JOB.to_json())))
def test_a_changed_job_is_refused_or_of_the_same_cell(tmp_path, values):
    (tmp_path / "cell.json").write_text(json.dumps(values))
    job = read_job(tmp_path)
    if job is not None:
        assert job.cell.cell_id == CELL.cell_id
        assert type(job.attempt) is type(job.threads) is int
        assert asdict(job).keys() == asdict(JOB).keys()
        assert job.cell.cell_id == values["cell_id"]


@examples(60)
@given(content=damaged(JOB.to_json().encode()))
def test_a_damaged_job_is_refused_or_of_the_same_cell(tmp_path, content):
    (tmp_path / "cell.json").write_bytes(content)
    job = read_job(tmp_path)
    assert job is None or job.cell.cell_id == CELL.cell_id


def test_a_job_from_before_repeats_is_the_first():
    lines = JOB.to_json().replace('"code_version": "0.1.0",', '"code_version": "0.1.0"')
    old = lines.replace('"repeat": 1', "")
    assert "repeat" not in old
    assert Job.from_json(old) == JOB
    with pytest.raises(InputError, match="repeat"):
        Job.from_json(JOB.to_json().replace('"repeat": 1', '"repeat": "1"'))


def test_a_job_nested_to_any_depth_is_refused(tmp_path):
    for depth in (*NEAR_THE_LIMIT, 50_000):
        text = JOB.to_json().replace('"rank": 8', f'"rank": {nested(depth)}')
        (tmp_path / "cell.json").write_text(text)
        assert read_job(tmp_path) is None


@pytest.mark.parametrize("kind", ["none", "pipe", "folder", "huge", "device"])
def test_what_is_no_job_is_refused(tmp_path, kind):
    path = tmp_path / "cell.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        sparse(path, 2**36)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    assert read_job(tmp_path) is None


def test_a_worker_says_in_a_line_that_its_job_is_broken(tmp_path):
    (tmp_path / "cell.json").write_text(JOB.to_json().replace('"seed": 0', '"seed": 1'))
    argv = [sys.executable, "-m", "bench.worker", str(tmp_path)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'cell.json'}: has settings that are not")
    assert done.stderr.count("\n") == 1


# Names


@examples(300)
@given(
    name=st.text(max_size=8) | st.sampled_from(TEXTS),
    cell_id=st.text("ab./\\\0 -~", max_size=4),
    conditions_id=st.text("ab./\\\0 -~", max_size=4),
)
def test_a_folder_is_beside_the_others_or_refused(name, cell_id, conditions_id):
    path = Path("/data/runs.csv")
    try:
        folder = cell_folder(path, name, cell_id, conditions_id, 1, 1)
    except ValueError:
        return
    assert folder.parent == cells_folder(path)
    assert Path(os.path.normpath(folder)) == folder
    assert folder.name.isprintable()
    assert not folder.name.startswith(".")
