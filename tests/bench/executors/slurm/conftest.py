"""Slurm's commands as a few lines of shell, and submissions of cells that need no torch."""

import os
from dataclasses import replace

import pytest

from bench.executors.slurm.submission import Start, Submission, TaskAttempt
from bench.launch.attempt import Attempt, outcome_row
from bench.launch.runner import WorkerEnd
from bench.plan.planning import Planned
from tests.experiments.faults.setups import setup


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Puts commands on PATH, each with its lines of shell; others are not there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "cat", "env", "git"):
        (folder / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(folder))
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)

    def put(**lines):
        for name, text in lines.items():
            path = folder / name
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)

    put(sbatch="exit 1", squeue="", scancel="", scontrol="exit 1", sinfo="echo 'main*|infinite'")
    return put


@pytest.fixture(scope="session")
def target():
    return setup("fake").target("cpu")


def runs(number=4):
    made = setup("fake")
    cells = (replace(made.cells[0], seed=seed) for seed in range(number))
    jobs = (made.model.job(cell, None, conditions_id="planned", attempt=1) for cell in cells)
    return [Attempt(job=job, grid="faults", dev_examples={"movies": 1}) for job in jobs]


FIRST, SECOND = TaskAttempt(0, 0, 0), TaskAttempt(0, 1, 0)
BEGAN, ENDED = "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"


def begin(submission, target, attempt=FIRST):
    return submission.begin(attempt, Start("n1", target, BEGAN))


def row_of(submission, target, status="ok", attempt=FIRST):
    """The row of an attempt that has ended, and its folder."""
    run = submission.run(attempt, submission.groups[attempt.index][attempt.number], target)
    folder = run.folder(submission.runs_csv())
    return outcome_row(run, target, worker_end(status), folder), folder


def worker_end(status="ok"):
    return WorkerEnd(status=status, message="", wall_s=1.0, started_at=BEGAN, finished_at=ENDED)


class Dispatcher:
    """What a session of some cells does."""

    def __init__(self, prepared, store):
        self.runs = {(run.job.cell.cell_id, run.job.repeat): run for run in prepared}
        self.items = [Planned(run.job.cell, "run", "not run yet", 1) for run in prepared]
        self.rows, self.notes, self.stages = [], [], []
        self._store = store
        self.display = self

    def prepare(self, item):
        return self.runs.get(item.key)

    def ended(self, *cells):
        for _, row in cells:
            self.rows.append(row)
            self._store.append(row)

    def note(self, text):
        self.notes.append(text)

    def stage(self, name, at_once=1):
        self.stages.append(name)


@pytest.fixture
def submit(tmp_path):
    """Makes the folder of a submission next to tmp_path's runs.csv; nothing is queued."""

    def make(groups, name="one", job=7):
        folder = tmp_path / "runs" / "slurm" / name
        runs, kinds = str(tmp_path / "runs.csv"), str(tmp_path)
        request = {"runs": runs, "device": "cpu", "kinds": kinds, "user": os.getuid()}
        submission = Submission.create(folder, request, groups, "#!/bin/sh\n")
        submission.keep_job(job)
        return submission

    return make
