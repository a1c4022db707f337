"""cell.json as people and crashes leave it, and names that would lead out of a cell's folder."""

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given

from bench.common.errors import InputError
from bench.plan.cell import MIXED
from bench.plan.job import Job
from bench.results.store import cell_folder, cells_folder
from tests.bench.synthetic_rows import cell
from tests.bench.tiny_cells import PARTS, job_of
from tests.hostile import TEXTS, answer, changed, examples, nested, sparse

CELL = cell("lora", 8, "attn", "off")
JOB = job_of(CELL, Path("/a/b"))
SURROGATE = JOB.to_json().replace(json.dumps(CELL.model_digest), r'"\ud800"')


@examples(100)
@given(values=changed(json.loads(JOB.to_json())))
def test_a_changed_job_is_refused_or_of_the_same_cell(tmp_path, values):
    (tmp_path / "cell.json").write_text(json.dumps(values))
    job = answer(lambda: Job.read(tmp_path), InputError, tmp_path / "cell.json")
    if job is not None:
        assert job.cell.cell_id == CELL.cell_id == values["cell_id"]
        assert type(job.attempt) is type(job.threads) is int


@pytest.mark.parametrize(("content", "line"), [
    (None, "can't be read (No such file"), (b"\xff", "is not UTF-8 text"),
    (nested(50_000).encode(), "is not JSON"),
    (b"{}", "holds no cell"), (b'{"cell": {}}', "lacks "),
    (SURROGATE.encode(), "holds text that is no Unicode"),
])  # fmt: skip
def test_what_is_no_job_is_refused(tmp_path, content, line):
    path = tmp_path / "cell.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{path}: {line}")):
        Job.read(tmp_path)
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match="is a link"):
        Job.read(tmp_path)
    path.unlink()
    sparse(path, 2**36)
    with pytest.raises(InputError, match="are read"):
        Job.read(tmp_path)


OF_PARTS = cell("full", None, None, "off", **PARTS)
OF_TYPE = "has .* as frozen_dtype"


@pytest.mark.parametrize(("of", "wrong", "message"), [
    (cell("full", None, None, "bf16"), {"frozen_dtype": "fp32"}, OF_TYPE),
    (cell("lora", 8, "attn", "bf16", frozen_dtype="bf16"), {"frozen_dtype": None}, OF_TYPE),
    (cell("head", None, None, "bf16", frozen_dtype="bf16"), {"frozen_dtype": MIXED}, OF_TYPE),
    (OF_PARTS, {"task_rates": "sst=x"}, "has .* as task_rates"),
    (OF_PARTS, {"encoders": None}, "has settings by part that don't go with task .*"),
    (OF_PARTS, {"task": "sst"}, "has settings by part that don't go with task .*"),
])  # fmt: skip
def test_a_job_whose_settings_do_not_go_together_is_refused(of, wrong, message):
    job = job_of(of, Path("/a/b"))
    values = json.loads(job.to_json())
    assert values.pop("repeat") == 1
    assert Job.from_json(json.dumps(values)) == job, "one from before repeats is the first"
    with pytest.raises(InputError, match=f"^{message}$"):
        Job.from_json(replace(job, cell=replace(of, **wrong)).to_json())


def test_a_worker_says_in_a_line_that_its_job_is_broken(tmp_path):
    (tmp_path / "cell.json").write_text(JOB.to_json().replace('"seed": 0', '"seed": 1'))
    argv = [sys.executable, "-m", "bench.worker", str(tmp_path)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'cell.json'}: has settings that are not")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("text", [*TEXTS, "", ".", "..", "../..", "/", "~", "a\0"])
def test_a_folder_is_beside_the_others_or_refused(text):
    path = Path("/data/runs.csv")
    for names in ((text, "a", "b"), ("a", text, "b"), ("a", "b", text)):
        with suppress(ValueError):
            folder = cell_folder(path, *names, 1, 1)
            assert folder.parent == cells_folder(path)
            assert Path(os.path.normpath(folder)) == folder
            assert folder.name.isprintable()
            assert not folder.name.startswith(".")
