"""Commands that are given while others submit, or after something has changed."""

from pathlib import Path
from threading import Thread

import pytest
from filelock import FileLock

from bench.common.errors import InputError, StoppedError
from bench.executors.slurm import probe
from bench.executors.slurm.executor import POLL, SlurmExecutor, find_cluster
from bench.executors.slurm.options import Request, parse_request
from bench.executors.slurm.probe import Prober
from bench.executors.slurm.submission import TARGET
from bench.executors.slurm.submitter import Submitter
from bench.launch.attempt import outcome_row
from bench.launch.signals import Signals
from bench.results.store import Store
from tests.bench.executors.slurm.conftest import Dispatcher, runs, worker_end


def executor(folder, target):
    store = Store(folder / "runs.csv")
    return SlurmExecutor(store, Submitter(store.path, Request(), "cpu", folder / "kinds"), target)


def test_what_another_command_is_submitting_is_not_closed(tmp_path, target, slurm, submit):
    folder = tmp_path / "runs" / "slurm"
    folder.mkdir(parents=True)
    with FileLock(folder / "submit.lock"):
        submission = submit([runs(1)])
        (submission.folder / "job.json").unlink()
        collecting = Thread(target=executor(tmp_path, target).collect)
        collecting.start()
        collecting.join(0.3)
        slurm(squeue=f"echo '{submission.name}|7|0|PENDING|None'")  # sbatch has answered
    collecting.join()
    assert submission.job == 7
    assert not (submission.folder / "done").exists()
    assert list((submission.folder / "starts").iterdir()) == []


def test_nothing_is_submitted_after_a_stop(tmp_path, target, slurm):
    calls = tmp_path / "calls"
    slurm(sbatch=f"echo called > {calls}; echo 1", scontrol="echo MaxArraySize = 9")

    class Stopped(Dispatcher):
        def prepare(self, item):
            signals.stops = 1
            return super().prepare(item)

    dispatcher = Stopped(runs(2), Store(tmp_path / "runs.csv"))
    with Signals() as signals, pytest.raises(StoppedError):
        executor(tmp_path, target).run(dispatcher.items, dispatcher, signals)
    assert not calls.exists()


def test_what_another_command_has_run_meanwhile_is_not_submitted(
    tmp_path, target, slurm, monkeypatch
):
    monkeypatch.setenv(POLL, "0.01")
    calls = tmp_path / "calls"
    slurm(
        sbatch=f'echo "$*" >> {calls}; echo 1',
        scontrol='[ "$2" = config ] && echo "MaxArraySize = 9"',
    )
    prepared, asked = runs(3), []
    store = Store(tmp_path / "runs.csv")

    class Late(Dispatcher):
        def prepare(self, item):
            run = super().prepare(item)
            number = prepared.index(run)
            asked.append(number)
            if asked == [0, 1, 2]:  # another command ends the first while this one still prepares
                first = prepared[0].on(target)
                end = outcome_row(first, target, worker_end(), first.folder(store.path))
                store.append(end)
            return None if store.highest_attempt(*item.key) else run

    dispatcher = Late(prepared, store)
    with Signals() as signals:
        assert not executor(tmp_path, target).run(dispatcher.items, dispatcher, signals)
    assert asked == [0, 1, 2, 0]
    assert "--array=0-1 " in calls.read_text()


def test_a_runs_csv_that_is_a_link_has_its_cells_beside_the_link(tmp_path, slurm):
    slurm(sbatch="echo 5", scontrol="echo MaxArraySize = 9")
    (tmp_path / "elsewhere.csv").touch()
    csv = tmp_path / "runs.csv"
    csv.symlink_to(tmp_path / "elsewhere.csv")
    submission = Submitter(csv, Request(), "cpu", tmp_path / "kinds").submit([runs(1)])
    assert submission.runs_csv() == csv


def test_a_folder_that_can_not_be_written_is_refused(slurm):
    slurm(sbatch="cat > /dev/null")
    with pytest.raises(InputError, match="can't be written"):
        find_cluster(Store(Path("/proc/self/runs.csv")), Request(), "cpu", [], dry_run=False)


def prober(folder, text=""):
    return Prober(folder / "runs.csv", parse_request(text), "cpu", [], print, 0.01)


def folders(folder, text=""):
    one = prober(folder, text)
    return one.kinds_folder, one._folder([])


def test_kinds_of_nodes_are_those_of_a_request_a_partition_and_a_build_of_torch(
    tmp_path, monkeypatch, slurm
):
    assert folders(tmp_path, "time=5 exclude=n1") == folders(tmp_path, "time=9")
    before = folders(tmp_path)
    assert folders(tmp_path, "mem=1G")[0] != before[0]
    with monkeypatch.context() as patch:
        patch.setattr(probe, "torch_build", lambda: ("99.0", None))
        after = folders(tmp_path)
    assert (after[0], after[1] != before[1]) == (before[0], True), "a node is asked again"
    monkeypatch.setenv("SBATCH_PARTITION", "long")
    assert folders(tmp_path)[0] != before[0]
    slurm(sinfo="echo 'main*|30:00'; echo 'long|infinite'", sbatch="cat > /dev/null")
    prober(tmp_path, "time=2:00:00").check()


def test_a_full_queue_is_no_reason_to_refuse_a_later_command(tmp_path, slurm, target):
    one = prober(tmp_path)
    slurm(sbatch="echo 'sbatch: error: AssocMaxSubmitJobLimit' >&2; exit 1")
    with pytest.raises(InputError, match="refuses such a job: sbatch: AssocMaxSubmitJobLimit"):
        one.check()
    folder = one._folder(one._needed())
    folder.mkdir(parents=True)
    (folder / "answer.json").write_bytes(TARGET.dump_json(target))
    one.check()


def test_an_answer_that_a_killed_command_left_is_not_used(tmp_path, slurm, target):
    one = prober(tmp_path)
    folder = one._folder(one._needed())
    folder.mkdir(parents=True)
    answer = folder / "answer.json"
    answer.write_text('{"problem": "it does not see /x"}')
    (tmp_path / "found").write_bytes(TARGET.dump_json(target))
    slurm(sbatch=f"[ -e {answer} ] || cat {tmp_path}/found > {answer}; echo 3")
    with Signals() as signals:
        assert one.ask(signals) == target
