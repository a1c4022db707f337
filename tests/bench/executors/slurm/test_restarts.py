"""What an array task leaves out: cells that have a result, and those that it has no time for."""

import sys
from dataclasses import replace

import pytest

from bench.common.errors import InputError
from bench.executors.slurm import node
from bench.executors.slurm.submission import Submission, TaskAttempt
from bench.launch.attempt import outcome_row
from bench.launch.runner import WorkerEnd
from bench.results.row import keep_row, kept_row
from tests.bench.executors.slurm.conftest import runs

WORKER = (sys.executable, "-S", "-c")
CRASHES = "import sys; sys.exit(3)"
HANGS = "import time; time.sleep(60)"


@pytest.fixture(autouse=True)
def environment(slurm, target, monkeypatch):
    """An array task 0 on a node without a limit, whose conditions are not looked for."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    monkeypatch.setattr(node, "find_target", lambda _device: target)


def run(submission: Submission, code: str) -> int:
    return node.main(submission.folder, (*WORKER, code))


def test_a_restart_does_not_run_again_what_has_crashed(submit, monkeypatch):
    submission = submit([runs(1)])
    assert run(submission, CRASHES) == 0
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert run(submission, CRASHES) == 0
    assert submission.row(TaskAttempt(0, 0, 0)).status == "crashed"
    assert submission.row(TaskAttempt(0, 0, 1)) is None


def test_cells_after_the_one_that_used_up_the_jobs_time_do_not_begin(submit, monkeypatch, slurm):
    submission = submit([runs(2)])
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    slurm(squeue="echo '0:01|1:00'")
    assert run(submission, HANGS) == 0
    assert submission.row(TaskAttempt(0, 0, 0)).status == "timeout"
    assert not (submission.folder / "starts" / "0-1-0.json").exists()


def test_a_cell_that_is_another_one_there_follows_the_attempts_at_that(submit, target, tmp_path):
    [run_here] = runs(1)
    other = "fp16" if target.amp_on == "bf16" else "bf16"
    cell = replace(run_here.job.cell, amp=other, frozen_dtype=other)
    planned = replace(run_here, amp_is_on=True, job=replace(run_here.job, cell=cell))
    earlier = planned.on(target)
    folder = earlier.folder(tmp_path / "runs.csv")
    now = "2026-01-01T00:00:00Z"
    ended = WorkerEnd(status="ok", message="", wall_s=1.0, started_at=now, finished_at=now)
    row = outcome_row(earlier, target, ended, folder)
    keep_row(folder, row)
    submission = submit([[planned]])
    assert run(submission, CRASHES) == 0
    later = submission.row(TaskAttempt(0, 0, 0))
    assert (later.key, later.attempt) == (row.key, 2)
    assert kept_row(folder) == row


def test_the_last_line_of_an_error_does_not_name_the_node(submit, monkeypatch, capfd):
    def fails(_device: str) -> None:
        raise InputError("no GPU can be used")

    monkeypatch.setattr(node, "find_target", fails)
    monkeypatch.setattr(node.socket, "gethostname", lambda: "node7")
    assert run(submit([runs(1)]), HANGS) == 1
    assert capfd.readouterr().err.splitlines() == ["on node7:", "error: no GPU can be used"]
