"""What is submitted, followed and collected, with a queue of the tests' own."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from threading import Thread, Timer
from unittest import mock

import pytest
from filelock import FileLock

from bench.common.errors import InputError, RefusedError, StoppedError
from bench.executors.slurm import executor as module
from bench.executors.slurm import submission as folders
from bench.executors.slurm.commands import SlurmError
from bench.executors.slurm.executor import SlurmExecutor
from bench.executors.slurm.following import Submitter
from bench.executors.slurm.options import CHANGES_FOLDER, NO_PYTHON, Request, parse_request
from bench.executors.slurm.submission import Submission, TaskAttempt, submissions
from bench.launch.attempt import outcome_row
from bench.launch.signals import Signals
from bench.results.rowfile import read_rows
from bench.results.store import Store
from tests.bench.executors.slurm.conftest import Dispatcher, begin, row_of, runs, worker_end


class Cluster:
    """A queue, in which `steps` happen one after the other, each after a look at it."""

    def __init__(self, folder, target, slurm, monkeypatch):
        self.csv = folder / "runs.csv"
        self.steps: list[Callable[[], None]] = []
        self.calls = folder / "calls"
        self.calls.touch()
        self._queue = folder / "queue"
        self._target = target
        self._made = folder
        (folder / "number").write_text("10")
        slurm(
            sbatch=f'echo "sbatch $*" >> {self.calls}; n=$(cat {folder}/number); '
            f"n=$((n + 1)); echo $n > {folder}/number; echo $n",
            scancel=f'echo "scancel $*" >> {self.calls}',
            squeue=f"cat {self._queue}",
            scontrol='[ "$2" = config ] && echo "MaxArraySize = 3"',
        )
        self.queue()
        monkeypatch.setattr(module, "_sleep", self._step)

    def _step(self, _seconds, signals, _stops):
        self.signals = signals
        assert self.steps, "it goes on waiting"
        self.steps.pop(0)()

    def queue(self, *lines):
        """From now on these are queued: `NUMBER|INDEXES|STATE` and perhaps `|REASON`."""
        every, text = self.submissions(), ""
        for number, *words in (f"{line}|None".split("|") for line in lines):
            one = every[int(number)]
            text += "|".join([one.name, str(one.job), *words[:3]]) + "\n"
        self._queue.write_text(text)

    def submissions(self):
        every = map(Submission, folders.submissions_folder(self.csv).glob("2*"))
        return sorted(every, key=lambda submission: submission.job or 0)

    def publish(self, number, index, status="ok"):
        """An array task publishes the row of its first cell."""
        submission, attempt = self.submissions()[number], TaskAttempt(index, 0, 0)
        begin(submission, self._target, attempt)
        submission.publish_row(attempt, *row_of(submission, self._target, status, attempt))

    def executor(self, request=None):
        submitter = Submitter(self.csv, request or Request(), "cpu", self._made / "kinds")
        return SlurmExecutor(Store(self.csv), submitter, self._target)

    def run(self, dispatcher, request=None):
        """Run cells whose array tasks are pending as soon as they are submitted."""
        submit = Submitter.submit

        def queued(*of):
            submission = submit(*of)
            self.queue(*(f"{n}|0-2|PENDING" for n in range(len(self.submissions()))))
            return submission

        with Signals() as signals, mock.patch.object(Submitter, "submit", queued):
            return self.executor(request).run(dispatcher.items, dispatcher, signals)

    def dispatcher(self, number, first=0):
        return Dispatcher(runs(number)[first:], Store(self.csv))

    def locked(self):
        """The lock of another command that submits."""
        folder = folders.submissions_folder(self.csv)
        folder.mkdir(parents=True)
        return FileLock(folder / "submit.lock")

    def called(self):
        return [line.replace(str(self._made), "") for line in self.calls.read_text().splitlines()]


@pytest.fixture
def cluster(tmp_path, target, slurm, monkeypatch):
    return Cluster(tmp_path, target, slurm, monkeypatch)


def test_arrays_are_split_and_chained(cluster, tmp_path):
    (tmp_path / "elsewhere.csv").touch()
    cluster.csv.symlink_to(tmp_path / "elsewhere.csv")
    dispatcher = cluster.dispatcher(7)

    def end():
        for place in range(7):
            cluster.publish(*divmod(place, 3))
        cluster.queue()

    cluster.steps = [end]
    assert not cluster.run(dispatcher, parse_request("partition=main", 2))
    words = [line.split() for line in cluster.called()]
    assert [[word for word in line if "=" in word] for line in words] == [
        ["--array=0-2%2"],
        ["--array=0-2%2", "--dependency=afterany:11"],
        ["--array=0-0%2", "--dependency=afterany:12"],
    ]
    assert len(dispatcher.rows) == 7
    assert {one.runs_csv() for one in cluster.submissions()} == {cluster.csv}


def test_arrays_stay_as_large_as_a_limit_lets_them(cluster, slurm, monkeypatch):
    """Of 24 cells, on a cluster whose largest array has 16; one array task ends at each look."""
    slurm(scontrol='[ "$2" = config ] && echo "MaxArraySize = 16"')
    dispatcher = cluster.dispatcher(24)
    submit, accepted, pending = Submitter.submit, [], []

    def limited(self, groups, after=None):
        if len(pending) + len(groups) > 15:
            raise SlurmError("sbatch: AssocMaxSubmitJobLimit")
        submission = submit(self, groups, after)
        accepted.append(len(groups))
        pending.extend((len(accepted) - 1, index) for index in range(len(groups)))
        show()
        return submission

    def show():
        cluster.queue(*(f"{number}|{index}|RUNNING" for number, index in pending))

    def one_ends():
        cluster.publish(*pending.pop(0))
        show()

    monkeypatch.setattr(Submitter, "submit", limited)
    cluster.steps = [one_ends] * 24
    assert not cluster.executor().run(dispatcher.items, dispatcher, Signals())
    assert len(dispatcher.rows) == sum(accepted) == 24
    assert set(accepted[:-1]) == {8, 4, 2}, "the last is what is left"
    assert dispatcher.stages[0] == "13 array tasks running, 0 pending, 10 to be submitted"
    assert dispatcher.stages[-1] == "1 array task running, 0 pending"


def test_what_is_refused_ends_the_run_and_after_cells_have_run_with_a_report(cluster, slurm):
    """A RefusedError would leave the report out."""
    cluster.steps = [lambda: (cluster.publish(0, 0), cluster.queue())]
    first, second = cluster.dispatcher(1), cluster.dispatcher(2, first=1)
    executor = cluster.executor()
    assert not executor.run(first.items, first, Signals())
    slurm(sbatch="echo 'sbatch: error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SlurmError, match="Unable to contact"):
        executor.run(second.items, second, Signals())
    slurm(sbatch="echo 'sbatch: error: Invalid account' >&2; exit 1")
    with pytest.raises(RefusedError, match="Invalid account"):
        cluster.run(second)
    assert len(cluster.submissions()) == 1


def test_nothing_is_submitted_after_a_stop(cluster, monkeypatch):
    early, late, signals, submit = cluster.dispatcher(2), cluster.dispatcher(7), Signals(), None
    early.prepare = lambda _item: setattr(signals, "stops", 1)
    with pytest.raises(StoppedError):
        cluster.executor().run(early.items, early, signals)
    assert cluster.called() == []
    submit, signals.stops = Submitter.submit, 0

    def stopped(*of):
        signals.stops += 1
        submission = submit(*of)
        cluster.queue("0|0-2|PENDING")
        return submission

    monkeypatch.setattr(Submitter, "submit", stopped)
    cluster.steps = [lambda: None]
    assert cluster.executor().run(late.items, late, signals)
    assert len(cluster.submissions()) == 1, "of three arrays"
    assert [note for note in late.notes if "to cancel them: scancel 11" in note]


def test_jobs_of_another_user_or_version_are_known(cluster, slurm, submit):
    submission = submit([runs(1)])
    request = json.loads((submission.folder / "request.json").read_text())
    (submission.folder / "request.json").write_text(json.dumps(request | {"user": 70_000}))
    slurm(squeue=f"case $* in *,70000*) echo '{submission.name}|7|0|RUNNING|None';; esac")
    cluster.executor().collect()
    assert [one.folder for one in submissions(cluster.csv)] == [submission.folder]
    (submission.folder / "cells.jsonl").write_text("[{}]\n")
    with pytest.raises(InputError, match="is no run of a cell") as error:
        cluster.executor().collect()
    assert f"scancel --name={submission.name}, delete {submission.folder}," in str(error.value)


def test_a_wait_for_a_lock_is_ended_by_the_user_or_after_minutes(cluster, monkeypatch):
    executor, dispatcher, signals = cluster.executor(), cluster.dispatcher(1), Signals()
    with cluster.locked():
        monkeypatch.setattr(module, "_TICK_S", 0.0)
        Timer(0.1, lambda: setattr(signals, "stops", 1)).start()
        with pytest.raises(StoppedError):
            executor.run(dispatcher.items, dispatcher, signals)
        monkeypatch.setattr(module, "LOCK_S", 0.0)
        with pytest.raises(InputError, match=r"submit\.lock: another process has held this lock"):
            executor.collect()


def test_a_later_command_follows_what_is_queued(cluster):
    before = cluster.dispatcher(3)
    cluster.steps = [mock.Mock(side_effect=KeyboardInterrupt)]
    with pytest.raises(KeyboardInterrupt):
        cluster.run(before)
    cluster.publish(0, 0)
    cluster.executor().collect()
    assert [row.seed for row in read_rows(cluster.csv)] == [0]

    after = cluster.dispatcher(3, first=1)
    cluster.steps = [lambda: (cluster.publish(0, 1), cluster.publish(0, 2), cluster.queue())]
    assert not cluster.run(after)
    assert after.notes == ["2 of these cells are already queued, in job 11"]
    assert len([line for line in cluster.called() if line.startswith("sbatch")]) == 1
    assert sorted(row.seed for row in read_rows(cluster.csv)) == [0, 1, 2]


def test_what_another_command_is_submitting_is_not_closed(cluster, slurm, submit):
    with cluster.locked():
        submission = submit([runs(1)])
        (submission.folder / "job.json").unlink()
        collecting = Thread(target=cluster.executor().collect)
        collecting.start()
        collecting.join(0.3)
        slurm(squeue=f"echo '{submission.name}|7|0|PENDING|None'")  # sbatch has answered
    collecting.join()
    assert submission.job == 7
    assert not (submission.folder / "done").exists()
    assert list((submission.folder / "starts").iterdir()) == []


def test_what_another_command_has_run_meanwhile_is_not_submitted(cluster, target):
    dispatcher, asked = cluster.dispatcher(3), []
    prepare, store = dispatcher.prepare, Store(cluster.csv)

    def late(item):
        run = prepare(item)
        asked.append(run.job.cell.seed)
        if asked == [0, 1, 2]:  # another command ends the first while this one still prepares
            first = prepare(dispatcher.items[0]).on(target)
            store.append(outcome_row(first, target, worker_end(), first.folder(store.path)))
        return None if store.highest_attempt(*item.key) else run

    dispatcher.prepare = late
    cluster.steps = [cluster.queue]
    assert not cluster.run(dispatcher)
    assert asked == [0, 1, 2, 0]
    assert "--array=0-1 " in cluster.called()[0]


def test_two_collectors_append_a_row_once_and_cancel_restarts_of_finished_cells(cluster):
    dispatcher = cluster.dispatcher(2)

    def both():
        cluster.queue("0|0-1|RUNNING")
        cluster.publish(0, 1)
        cluster.executor().collect()
        assert [row.seed for row in read_rows(cluster.csv)] == [1]

    def last():
        assert [row.seed for row in dispatcher.rows] == [1]
        cluster.publish(0, 0)
        cluster.queue("0|0-1|PENDING")

    cluster.steps = [both, lambda: None, last]
    cluster.run(dispatcher)
    assert [row.seed for row in read_rows(cluster.csv)] == [1, 0]
    assert dispatcher.notes == ["job 11: 2 cells in 2 array tasks"]
    assert list(submissions(cluster.csv)) == []
    assert cluster.called()[-1] == "scancel --state=PENDING 11"


def test_slurm_that_does_not_answer_is_asked_again(cluster, slurm):
    dispatcher = cluster.dispatcher(1)
    away = "squeue: Unable to contact slurm controller"

    def back():
        cluster.publish(0, 0)
        slurm(squeue="")

    cluster.steps = [lambda: slurm(squeue=f"echo '{away}' >&2; exit 1"), lambda: None, back]
    cluster.run(dispatcher)
    assert dispatcher.notes[1:] == [f"Slurm does not answer ({away}); jobs go on, asking again"]
    assert len(dispatcher.rows) == 1


def test_a_node_on_which_no_cell_can_begin_is_named(cluster, slurm):
    dispatcher, codes = cluster.dispatcher(3), (NO_PYTHON, CHANGES_FOLDER, 1)

    def fail():
        (cluster.submissions()[0].folder / "output" / "2.txt").write_text("No module named torch")
        text = "echo ArrayTaskId={0} JobState=FAILED ExitCode={1}:0 BatchHost=n{0}"
        slurm(scontrol="\n".join(text.format(*pair) for pair in enumerate(codes)))
        cluster.queue()

    cluster.steps = [fail]
    assert not cluster.run(dispatcher)
    assert dispatcher.notes[1:] == [
        f"job 11: 1 array task never began: {why} (to leave nodes out: --slurm exclude={node})"
        for why, node in (
            ("its array task failed: No module named torch", "n2"),
            ("its node does not see the Python of the command", "n0"),
            ("its node does not see the folder of the command", "n1"),
        )
    ]
    assert dispatcher.rows == []


def test_array_tasks_that_wait_for_somebody_are_noted_once(cluster):
    dispatcher = cluster.dispatcher(3)

    def held():
        cluster.queue("0|0|RUNNING", "0|1-2|PENDING|JobHeldAdmin")

    def bad():
        cluster.queue("0|1|PENDING|JobHeldAdmin", "0|2|PENDING|BadConstraints")

    cluster.steps = [held, held, bad, cluster.queue]
    assert not cluster.run(dispatcher)
    notes = [note.partition(":")[2] for note in dispatcher.notes if "can't start" in note]
    assert [note.partition(";")[0] for note in notes] == [
        " 2 array tasks can't start (JobHeldAdmin)",
        " 1 array task can't start (BadConstraints)",
    ]
    assert "if held: scontrol release 11; to give up: scancel 11" in notes[0]


@pytest.mark.parametrize(("is_terminal", "answer"), [(False, "y\n"), (True, "y\n"), (True, "\n")])
def test_array_tasks_go_on_unless_the_user_objects(cluster, monkeypatch, is_terminal, answer):
    terminal = mock.Mock(**{"isatty.return_value": is_terminal, "readline.return_value": answer})
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    dispatcher = cluster.dispatcher(1)

    def stop():
        cluster.signals.stops += 1

    cluster.steps = [stop, lambda: (cluster.publish(0, 0, "interrupted"), cluster.queue())]
    assert cluster.run(dispatcher)
    ends = is_terminal and answer == "y\n"
    assert ("cancel the array tasks of job 11? [y/N]" in dispatcher.notes) == is_terminal
    assert ("array tasks go on; to cancel them: scancel 11" in dispatcher.notes) != ends
    assert ("scancel 11" in cluster.called()) == ends
    assert len(dispatcher.rows) == ends


@pytest.mark.parametrize(("forecasts", "timeouts", "time"), [
    ([100.0, 50.0], [None, None], "0:10:00"),  # 3 times 100 s, and 5 min
    ([100.0, 50.0], [60.0, 60.0], "0:06:00"),
    ([None, None], [60.0, 90.0], "0:07:00"),
    ([100.0, None], [None, None], None),
    ([1e6, 1.0], [None, None], "24:00:00"),  # the partition's
])  # fmt: skip
def test_a_time_limit_by_the_forecast(cluster, slurm, forecasts, timeouts, time):
    slurm(sinfo="echo 'main*|1-00:00:00'")
    groups = [
        [replace(run, expected_s=s, timeout_s=limit)]
        for run, s, limit in zip(runs(2), forecasts, timeouts, strict=True)
    ]
    lines = [line for line in cluster.executor().script(groups).splitlines() if "--time" in line]
    assert lines == ([] if time is None else [f"#SBATCH --time={time}"])
    assert "#SBATCH --time=5\n" in cluster.executor(parse_request("time=5")).script(groups)
    together = [replace(run, expected_s=100.0) for run in runs(2)]
    assert "#SBATCH --time=0:15:00" in cluster.executor().script([together])
