"""Submissions: each attempt begins once and has one row; and the process of an array task."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from bench.common.errors import DiskFullError, InputError
from bench.executors.slurm import following as module
from bench.executors.slurm import node
from bench.executors.slurm.commands import Ended
from bench.executors.slurm.following import Following
from bench.executors.slurm.options import NO_FILES
from bench.executors.slurm.submission import TARGET, Submission, TaskAttempt, publish, submissions
from bench.launch.attempt import outcome_row
from bench.results.protocol import ROW
from bench.results.row import keep_row, kept_row
from tests.bench.executors.slurm.conftest import FIRST, SECOND, begin, row_of, runs, worker_end


def test_what_is_written_is_read_and_listed_until_it_is_done(submit, target, tmp_path):
    for name in ("b", "c", "a"):
        submit([runs(1)], name)
    (tmp_path / "runs" / "slurm" / "b" / "done").touch()
    (tmp_path / "runs" / "slurm" / "probe-1").mkdir()
    assert [one.folder.name for one in submissions(tmp_path / "runs.csv")] == ["a", "c"]
    assert list(submissions(tmp_path / "other.csv")) == []
    [one, two, three, _] = runs()
    submission = submit([[one, two], [three]])
    again = Submission(submission.folder)
    assert again.groups == [[one, two], [three]]
    assert again.group(1) == [three]
    assert (again.job, again.name) == (7, "bench-one")
    assert TARGET.validate_json(TARGET.dump_json(target)) == target
    (submission.folder / "cells.jsonl").write_text("[{}]\n")
    with pytest.raises(InputError, match=r"cells\.jsonl: is no run of a cell"):
        submission.group(0)
    with pytest.raises(InputError, match="has no line 3"):
        submission.group(2)
    (submission.folder / "job.json").unlink()
    assert submission.job is None


def test_one_of_many_publishes_also_if_a_network_loses_its_answer(tmp_path, monkeypatch):
    path, texts = tmp_path / "rows" / "row.json", [b"%d" % n * 10_000 for n in range(8)]
    path.parent.mkdir()
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda text: publish(path, text), texts))
    assert won.count(True) == 1
    assert path.read_bytes() == texts[won.index(True)]
    assert list(path.parent.iterdir()) == [path]
    link = os.link
    monkeypatch.setattr(os, "link", lambda *paths: (link(*paths), link(*paths)))
    assert publish(path.with_name("other.json"), b"1")


def test_a_row_is_published_once_whatever_closes_it_and_none_of_what_is_closed(submit, target):
    submission = submit([runs(1)])
    begin(submission, target)
    row, folder = row_of(submission, target, "ok")
    assert submission.publish_row(FIRST, row, folder)
    assert submission.row(FIRST) == row == kept_row(folder)
    other, _ = row_of(submission, target, "crashed")
    assert not submission.publish_row(FIRST, other, folder)
    assert submission.close(FIRST, submission.groups[0][0], "crashed", "") == row
    assert submission.row(FIRST) == row == kept_row(folder)

    submission = submit([runs(2)], "two")
    never, began = submission.groups[0]
    for _ in range(2):
        assert submission.close(FIRST, never, "interrupted", "gone") is None
        assert not begin(submission, target)
    assert submission.row(FIRST) is None
    begin(submission, target, SECOND)
    late, folder = row_of(submission, target, "ok", SECOND)
    row = submission.close(SECOND, began, "interrupted", "its node failed")
    assert row is not None
    assert (row.status, row.message, row.attempt) == ("interrupted", "its node failed", 1)
    assert row.conditions_id == target.conditions.conditions_id
    assert not submission.publish_row(SECOND, late, folder)
    assert kept_row(folder) == row


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_closed_cell_is_not_begun_by_a_restarted_job(submit, target, has_begun):
    submission = submit([runs(2)])
    if has_begun:
        begin(submission, target)
    assert submission.close_all(0, 0, "interrupted", "its job was cancelled") is has_begun
    for restart in range(3):
        assert not begin(submission, target, replace(FIRST, restart=restart))
    assert begin(submission, target, SECOND)


def read(following, queued, ends=None):
    """Read rows, where Slurm says how array tasks ended, or is not asked."""
    asked = mock.Mock(side_effect=AssertionError) if ends is None else lambda _job: ends
    with mock.patch.object(module, "ended", asked):
        following.read(queued)


def test_all_attempts_of_a_cell_are_taken_together_and_a_group_is_closed(submit, target):
    following = Following(submission := submit([runs(1)]))
    begin(submission, target)
    second = replace(FIRST, restart=1)
    submission.close(FIRST, submission.groups[0][0], "interrupted", "its node failed")
    read(following, {0})
    assert list(following.take()) == []
    begin(submission, target, second)
    submission.publish_row(second, *row_of(submission, target, "ok", second))
    read(following, {0})
    [(_, rows)] = following.take()
    assert [(row.attempt, row.status) for row in rows] == [(1, "interrupted"), (2, "ok")]
    assert following.open == set()

    one, two, *_ = runs()
    following = Following(submission := submit([[one, two]], "two"))
    begin(submission, target)
    submission.publish_row(FIRST, *row_of(submission, target, "ok"))
    begin(submission, target, SECOND)
    read(following, set(), {0: Ended("NODE_FAIL")})
    taken = [(run, [row.status for row in rows]) for run, rows in following.take()]
    assert taken == [(one, ["ok"]), (two, ["interrupted"])]


@pytest.mark.parametrize(("end", "output", "status", "message"), [
    (Ended("TIMEOUT"), "", "timeout", "reached the job's time limit before it could report"),
    (Ended("FAILED"), "slurmstepd-n1: error: Exceeded job memory limit\n", "oom",
     "its job exceeded the memory that it asked for"),
    (Ended("FAILED", 9), "no space left\n", "crashed", "its array task failed: no space left"),
    (Ended("FAILED", NO_FILES), "on n7:\nerror: /place/cell: No space left on device\n",
     "interrupted",
     "its files could not be read or written: error: cell: No space left on device"),
    (None, "", "interrupted", "its array task is gone, and Slurm does not say why"),
    (None, "slurmstepd-n1: error: *** JOB 21 ON n1 CANCELLED AT 2026-11-28T07:08:46 ***\n",
     "interrupted", "its job was cancelled"),
])  # fmt: skip
def test_the_row_of_a_lost_task_says_why(submit, target, end, output, status, message):
    following = Following(submission := submit([runs(1)]))
    begin(submission, target)
    (submission.folder / "output" / "0.txt").write_text(output)
    read(following, set(), {0: end} if end else {})
    [(_, [row])] = following.take()
    assert row.status == status
    assert (row.message or "").startswith(message)
    assert following.open == set()
    assert following.not_run == {}


def test_array_tasks_that_never_began_have_no_row(submit, target):
    following = Following(submission := submit([[run] for run in runs(3)]))
    for name in (".0-0-0.json.n1.7.tmp", "notes.txt", "1-2.json", "0-0-0.json"):
        (submission.rows / name).write_text("{")
    for index, line in ((1, "no GPU can be used"), (2, "No space left on device")):
        (submission.folder / "output" / f"{index}.txt").write_text(f"{line}\n")
    read(following, set(), {1: Ended("FAILED", 1, "n7"), 2: Ended("FAILED", NO_FILES, "n7")})
    assert list(following.take()) == []
    assert following.not_run == {
        0: ("no longer in the queue", ""),
        1: ("its array task failed: no GPU can be used", "n7"),
        2: ("its files could not be read or written: No space left on device", ""),
    }
    assert not begin(submission, target)


OK = "import sys; open(sys.argv[1] + '/result.json', 'w').write('{\"status\": \"ok\"}')"
HANGS = "import time; time.sleep(60)"


@pytest.fixture(autouse=True)
def array_task(slurm, target, monkeypatch):
    """An array task 0 on a node without a limit, whose conditions are not looked for."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    monkeypatch.setattr(node, "find_target", lambda _device: target)
    monkeypatch.setattr(node, "_PATIENCE_S", 1.0)


def run(submission, code=OK):
    return node.main(submission.folder, (sys.executable, "-S", "-c", code))


def row(submission, number=0, restart=0):
    return submission.row(TaskAttempt(0, number, restart))


def test_cells_run_in_turn_and_a_restart_runs_the_rest(submit, target, tmp_path, monkeypatch):
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
    (submission.rows / SECOND.file).unlink()  # as if its node had failed before
    (submission.group(0)[1].on(target).folder(submission.runs_csv()) / ROW).unlink()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert run(submission) == 0
    assert row(submission, 0, 0).status == "ok"
    assert row(submission, 0, 1) is None
    lost, again = row(submission, 1, 0), row(submission, 1, 1)
    why = "its node failed, or Slurm started its job again"
    assert (lost.status, lost.message, lost.attempt) == ("interrupted", why, 1)
    assert (again.status, again.attempt) == ("ok", 2)


@pytest.mark.parametrize(("limit", "timeout_s", "message"), [
    ("0:02|1:00", None, "reached the job's time limit of 1:00 (time= of --slurm): "
     "took longer than 1 s"),
    ("1:00:00|1:00:00", 0.2, "took longer than 0.2 s"),
])  # fmt: skip
def test_a_cell_ends_before_its_job(submit, slurm, monkeypatch, limit, timeout_s, message):
    """And no other begins, unless it ends by a limit of its own."""
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


@pytest.mark.parametrize(("line", "delay_s", "message"), [
    ("", 0.0, "its job was ended by SIGTERM"),
    ("", 0.5, "its job was ended by SIGTERM"),  # the worker gets the signal first
    (" DUE TO PREEMPTION ", 0.0, "its job was preempted"),
    (" DUE TO SIGNAL 9 ", 0.0, "its job was ended due to signal 9"),
])  # fmt: skip
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
    keep_row(folder, before := outcome_row(earlier, target, worker_end(), folder))
    submission = submit([[planned]])
    assert run(submission, "import sys; sys.exit(3)") == 0
    assert (row(submission).key, row(submission).attempt) == (before.key, 2)
    assert kept_row(folder) == before
