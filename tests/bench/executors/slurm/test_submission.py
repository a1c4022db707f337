"""The folder of a submission: each attempt begins once, and has one row, whoever works on it."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest import mock

import pytest

from bench.common.errors import InputError
from bench.executors.slurm import following as module
from bench.executors.slurm.commands import Ended
from bench.executors.slurm.following import Following, key_of
from bench.executors.slurm.options import NO_FILES
from bench.executors.slurm.submission import TARGET, Submission, TaskAttempt, publish, submissions
from bench.results.row import kept_row
from tests.bench.executors.slurm.conftest import FIRST, SECOND, begin, row_of, runs


def test_what_is_written_is_read(submit, target):
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


def test_only_submissions_that_are_not_done_are_listed(submit, tmp_path):
    for name in ("b", "c", "a"):
        submit([runs(1)], name)
    (tmp_path / "runs" / "slurm" / "b" / "done").touch()
    (tmp_path / "runs" / "slurm" / "probe-1").mkdir()
    names = [one.folder.name for one in submissions(tmp_path / "runs.csv")]
    assert names == ["a", "c"]
    assert list(submissions(tmp_path / "other.csv")) == []


def test_one_of_many_publishes_also_if_a_network_loses_its_answer(tmp_path, monkeypatch):
    path, texts = tmp_path / "row.json", [b"%d" % number * 10_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda text: publish(path, text), texts))
    assert won.count(True) == 1
    assert path.read_bytes() == texts[won.index(True)]
    assert list(tmp_path.iterdir()) == [path]
    link = os.link
    monkeypatch.setattr(os, "link", lambda *paths: (link(*paths), link(*paths)))
    assert publish(tmp_path / "other.json", b"1")


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
def test_a_closed_cell_is_not_begun_by_a_job_that_slurm_restarts_all_the_same(
    submit, target, has_begun
):
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


def test_a_cell_is_taken_when_its_row_is_ok_or_its_array_task_gone(submit, target):
    one, two, three, four = runs()
    following = Following(submission := submit([[one], [two], [three], [four]]))
    for index, status in enumerate(["ok", "crashed", "crashed"]):
        attempt = TaskAttempt(index, 0, 0)
        begin(submission, target, attempt)
        submission.publish_row(attempt, *row_of(submission, target, status, attempt))
    read(following, {0, 1, 2, 3})
    assert [run for run, _ in following.take()] == [one]
    assert following.open == {1, 2, 3}
    read(following, None)  # Slurm does not answer
    assert list(following.take()) == []
    read(following, {2, 3}, {1: Ended("FAILED", 1)})
    [(run, [row])] = following.take()
    assert (run, row.status) == (two, "crashed")
    assert following.open == {2, 3}
    assert following.not_run == {}
    assert following.keys == set(map(key_of, (three, four)))


def test_all_attempts_of_a_cell_are_taken_together(submit, target):
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


@pytest.mark.parametrize(
    ("end", "output", "status", "message"),
    [
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
    ],
)  # fmt: skip
def test_the_row_of_an_array_task_that_is_gone_says_why(
    submit, target, end, output, status, message
):
    following = Following(submission := submit([runs(1)]))
    begin(submission, target)
    (submission.folder / "output" / "0.txt").write_text(output)
    read(following, set(), {0: end} if end else {})
    [(_, [row])] = following.take()
    assert row.status == status
    assert (row.message or "").startswith(message)
    assert following.open == set()


def test_array_tasks_that_never_began_have_no_row_and_files_of_others_are_left_alone(
    submit, target
):
    following = Following(submission := submit([[run] for run in runs(3)]))
    for name in (".0-0-0.json.n1.7.tmp", "notes.txt", "1-2.json", "0-0-0.json"):
        (submission.rows / name).write_text("{")
    for index, line in ((1, "no GPU can be used"), (2, "No space left on device")):
        (submission.folder / "output" / f"{index}.txt").write_text(f"{line}\n")
    ends = {1: Ended("FAILED", 1, "n7"), 2: Ended("FAILED", NO_FILES, "n7")}
    read(following, set(), ends)
    assert list(following.take()) == []
    assert following.not_run == {
        0: ("no longer in the queue", ""),
        1: ("its array task failed: no GPU can be used", "n7"),
        2: ("its files could not be read or written: No space left on device", ""),
    }
    assert not begin(submission, target)


def test_the_rest_of_a_group_is_closed_with_its_array_task(submit, target):
    one, two, *_ = runs()
    following = Following(submission := submit([[one, two]]))
    begin(submission, target)
    submission.publish_row(FIRST, *row_of(submission, target, "ok"))
    begin(submission, target, SECOND)
    read(following, set(), {0: Ended("NODE_FAIL")})
    taken = [(run, [row.status for row in rows]) for run, rows in following.take()]
    assert taken == [(one, ["ok"]), (two, ["interrupted"])]
