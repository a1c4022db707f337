"""What an array task leaves out: cells that have a result, and those that it has no time for."""

import sys
import time

import pytest

from bench.common.errors import InputError
from bench.executors.slurm import node
from bench.executors.slurm.submission import Attempt, Submission
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
    assert submission.row(Attempt(0, 0, 0)).status == "crashed"
    assert submission.row(Attempt(0, 0, 1)) is None


def test_cells_after_the_one_that_used_up_the_jobs_time_do_not_begin(submit, monkeypatch):
    submission = submit([runs(2)])
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 1))
    assert run(submission, HANGS) == 0
    assert submission.row(Attempt(0, 0, 0)).status == "timeout"
    assert not (submission.folder / "starts" / "0-1-0.json").exists()


def test_the_last_line_of_an_error_does_not_name_the_node(submit, monkeypatch, capfd):
    def fails(_device: str) -> None:
        raise InputError("no GPU can be used")

    monkeypatch.setattr(node, "find_target", fails)
    monkeypatch.setattr(node.socket, "gethostname", lambda: "node7")
    assert run(submit([runs(1)]), HANGS) == 1
    assert capfd.readouterr().err.splitlines() == ["on node7:", "error: no GPU can be used"]
