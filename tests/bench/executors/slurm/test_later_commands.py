"""Commands that are given while others submit, or after something has changed."""

from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
from filelock import FileLock

from bench.common.errors import InputError, StoppedError
from bench.executors.slurm import probe
from bench.executors.slurm.executor import POLL, SlurmExecutor, find_cluster
from bench.executors.slurm.options import Request, parse_request
from bench.executors.slurm.probe import Prober, known_kinds
from bench.executors.slurm.submission import TARGET
from bench.executors.slurm.submitter import Submitter
from bench.launch.attempt import outcome_row
from bench.launch.signals import Signals
from bench.plan.planning import Planned
from bench.results.store import Store
from tests.bench.executors.slurm.conftest import runs, worker_end


def executor(folder, target) -> SlurmExecutor:
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
    prepared = runs(2)

    class Dispatcher:
        display = None

        def prepare(self, item):
            signals.stops = 1
            return next(run for run in prepared if run.job.cell is item.cell)

    items = [Planned(run.job.cell, "run", "not run yet", 1) for run in prepared]
    with Signals() as signals, pytest.raises(StoppedError):
        executor(tmp_path, target).run(items, Dispatcher(), signals)
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

    class Dispatcher:
        def prepare(self, item):
            number = next(i for i, run in enumerate(prepared) if run.job.cell is item.cell)
            asked.append(number)
            if asked == [0, 1, 2]:  # another command ends the first while this one still prepares
                run = prepared[0].on(target)
                store.append(outcome_row(run, target, worker_end(), run.folder(store.path)))
            return None if store.highest_attempt(*item.key) else prepared[number]

        @property
        def display(self):
            return SimpleNamespace(note=print)

        def ended(self, *rows):
            pass

    items = [Planned(run.job.cell, "run", "not run yet", 1) for run in prepared]
    dispatcher = Dispatcher()
    with Signals() as signals:
        assert not executor(tmp_path, target).run(items, dispatcher, signals)
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


def prober(folder, text: str = "") -> Prober:
    return Prober(folder / "runs.csv", parse_request(text), "cpu", [], print, 0.01)


def folders(folder, text: str = ""):
    one = prober(folder, text)
    return one.kinds_folder, one._folder([])


def test_kinds_of_nodes_stay_known_with_another_time_limit(tmp_path):
    assert folders(tmp_path, "time=5 exclude=n1") == folders(tmp_path, "time=9")
    assert folders(tmp_path, "mem=1G")[0] != folders(tmp_path)[0]


def test_a_partition_of_the_environment_counts(tmp_path, monkeypatch, slurm):
    before = folders(tmp_path)
    monkeypatch.setenv("SBATCH_PARTITION", "long")
    assert folders(tmp_path)[0] != before[0]
    slurm(sinfo="echo 'main*|30:00'; echo 'long|infinite'", sbatch="cat > /dev/null")
    prober(tmp_path, "time=2:00:00").check()


def test_a_node_is_asked_again_after_an_update_of_torch(tmp_path, monkeypatch):
    before = folders(tmp_path)
    monkeypatch.setattr(probe, "torch_build", lambda: ("99.0", None))
    after = folders(tmp_path)
    assert (after[0], after[1] != before[1]) == (before[0], True)


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


def test_a_kind_that_another_version_has_written_does_not_count(tmp_path, target):
    other = replace(target, conditions=replace(target.conditions, machine="another"))
    for kind in (other, target):
        path = tmp_path / f"{kind.conditions.conditions_id}.json"
        path.write_bytes(TARGET.dump_json(kind))
    (tmp_path / f"{other.conditions.conditions_id}.json").write_text('{"conditions": {}}')
    assert [*known_kinds(tmp_path, target).values()] == [target]
