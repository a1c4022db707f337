"""The process of an array task: its cells in order, restarts, time limits, and signals."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from bench.common.errors import DiskFullError, InputError
from bench.executors.slurm import node
from bench.executors.slurm.options import NO_FILES
from bench.executors.slurm.submission import TaskAttempt
from bench.launch.attempt import outcome_row
from bench.results.protocol import ROW
from bench.results.row import keep_row, kept_row
from tests.bench.executors.slurm.conftest import SECOND, runs, worker_end

WORKER = (sys.executable, "-S", "-c")
OK = "import sys; open(sys.argv[1] + '/result.json', 'w').write('{\"status\": \"ok\"}')"
HANGS = "import time; time.sleep(60)"
CRASHES = "import sys; sys.exit(3)"


@pytest.fixture(autouse=True)
def environment(slurm, target, monkeypatch):
    """An array task 0 on a node without a limit, whose conditions are not looked for."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    monkeypatch.setattr(node, "find_target", lambda _device: target)
    monkeypatch.setattr(node, "_PATIENCE_S", 1.0)


def run(submission, code=OK):
    return node.main(submission.folder, (*WORKER, code))


def row(submission, number=0, restart=0):
    return submission.row(TaskAttempt(0, number, restart))


def test_the_cells_of_a_group_run_in_turn_and_each_attempt_once(submit, target, tmp_path):
    submission = submit([runs(2)])
    assert run(submission) == 0
    rows = [row(submission, number) for number in (0, 1)]
    assert [one.status for one in rows] == ["ok", "ok"]
    assert rows[0].finished_at <= rows[1].started_at
    assert {one.conditions_id for one in rows} == {target.conditions.conditions_id}
    folders = [path for path in (tmp_path / "runs").iterdir() if path.name != "slurm"]
    assert sorted(map(kept_row, folders), key=lambda one: one.seed) == rows
    assert (tmp_path / f"{target.conditions.conditions_id}.json").exists()
    assert run(submission, HANGS) == 0
    assert [row(submission, number) for number in (0, 1)] == rows


def test_a_restart_runs_what_has_no_result(submit, target, monkeypatch):
    submission = submit([runs(2)])
    assert run(submission) == 0
    run_there = submission.group(0)[1].on(target)
    (submission.rows / SECOND.file).unlink()  # as if its node had failed before
    (run_there.folder(submission.runs_csv()) / ROW).unlink()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert run(submission) == 0
    assert row(submission, 0, 0).status == "ok"
    assert row(submission, 0, 1) is None
    lost, again = row(submission, 1, 0), row(submission, 1, 1)
    why = "its node failed, or Slurm started its job again"
    assert (lost.status, lost.message, lost.attempt) == ("interrupted", why, 1)
    assert (again.status, again.attempt) == ("ok", 2)


@pytest.mark.parametrize(
    ("limit", "timeout_s", "message"),
    [
        ("0:02|1:00", None, "reached the job's time limit of 1:00 (time= of --slurm): "
         "took longer than 1 s"),
        ("1:00:00|1:00:00", 0.2, "took longer than 0.2 s"),
    ],
)  # fmt: skip
def test_a_cell_ends_before_its_job_after_which_no_other_begins_or_by_its_own_limit(
    submit, slurm, monkeypatch, limit, timeout_s, message
):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    slurm(squeue=f"echo '{limit}'")
    submission = submit([[replace(one, timeout_s=timeout_s) for one in runs(2)]])
    assert run(submission, HANGS) == 0
    assert row(submission).status == "timeout"
    assert row(submission).message.startswith(message)
    assert (submission.folder / "starts" / SECOND.file).exists() == (timeout_s is not None)


def test_the_time_limit_is_by_the_clock_of_the_controller(slurm, monkeypatch):
    assert node.time_limit(3) is None
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setattr(node.time, "monotonic", lambda: 5.0)
    slurm(squeue="[ $3 = --jobs=7_3 ] && echo '2:00:00|1-00:00:00'")
    assert node.time_limit(3) == (7205.0, "1-00:00:00")
    for line in ("echo 'UNLIMITED|UNLIMITED'", "exit 1"):
        slurm(squeue=line)
        assert node.time_limit(3) is None


@pytest.mark.parametrize(
    ("error", "code"), [(InputError("no GPU"), 1), (DiskFullError("no space left"), NO_FILES)]
)
def test_the_last_line_of_an_error_does_not_name_the_node(submit, monkeypatch, capfd, error, code):
    monkeypatch.setattr(node, "find_target", mock.Mock(side_effect=error))
    monkeypatch.setattr(node.socket, "gethostname", lambda: "node7")
    assert run(submit([runs(1)])) == code
    assert capfd.readouterr().err.splitlines() == ["on node7:", f"error: {error}"]
    assert node.main(Path("nothing")) == 1


@pytest.mark.parametrize(
    ("line", "delay_s", "message"),
    [
        ("", 0.0, "its job was ended by SIGTERM"),
        ("", 0.5, "its job was ended by SIGTERM"),  # the worker gets the signal first
        (" DUE TO PREEMPTION ", 0.0, "its job was preempted"),
        (" DUE TO SIGNAL 9 ", 0.0, "its job was ended due to signal 9"),
    ],
)
def test_slurm_ends_a_job_by_a_signal_to_all_its_processes(submit, line, delay_s, message):
    submission = submit([runs(2)])
    if line:
        text = f"slurmstepd-n1: error: *** JOB 22 ON n1 CANCELLED AT 2026-11-28T07:08:46{line}***\n"
        (submission.folder / "output" / "0.txt").write_text(text)
    parent = f"import os, time; time.sleep({delay_s}); os.kill({os.getpid()}, {signal.SIGTERM})"
    code = (
        f"import os, subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', '{parent}'], "
        "start_new_session=True); os.kill(os.getpid(), 15)"
    )
    assert run(submission, code) == 143
    assert (row(submission).status, row(submission).message) == ("interrupted", message)
    assert row(submission, 1) is None


def test_conditions_on_a_part_of_a_node(slurm, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(node.commands, "cpus_of", lambda _node: 4)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    part = node.find_target("cpu").conditions
    assert (part.threads, part.sharing) == (1, "part of a node")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "4")
    whole = node.find_target("cpu").conditions
    assert whole.sharing is None
    assert whole.conditions_id != part.conditions_id


def test_a_cell_that_is_another_one_there_follows_the_attempts_at_that(submit, target, tmp_path):
    [run_here] = runs(1)
    other = "fp16" if target.amp_on == "bf16" else "bf16"
    cell = replace(run_here.job.cell, amp=other, frozen_dtype=other)
    planned = replace(run_here, amp_is_on=True, job=replace(run_here.job, cell=cell))
    earlier = planned.on(target)
    folder = earlier.folder(tmp_path / "runs.csv")
    before = outcome_row(earlier, target, worker_end(), folder)
    keep_row(folder, before)
    submission = submit([[planned]])
    assert run(submission, CRASHES) == 0
    assert (row(submission).key, row(submission).attempt) == (before.key, 2)
    assert kept_row(folder) == before
