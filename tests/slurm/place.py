"""A folder with a runs.csv whose stub cells run on a cluster, and the command that runs them."""

import shutil
import subprocess
import sys
from collections import Counter
from typing import NamedTuple

from bench.executors.slurm.executor import POLL
from bench.executors.slurm.submission import Submission, submissions_folder
from bench.results.rebuild import rebuild
from tests.experiments.faults.checks import repeated_rows
from tests.experiments.faults.notes import read, records
from tests.slurm.stub_worker import CELLS, STARTS

HANG = "600"  # the sleep of a cell that something else has to end
PAIRS = """
[settings]
model = "bert-tiny"
init = "random"
[[cells]]
mode = ["full", "head"]
[[cells]]
mode = ["full", "head"]
settings = { batching = "shuffled" }
"""
POLL_S = "0.2"
LONGEST_S = 240.0  # the longest wait for a command


class Start(NamedTuple):
    seed: int
    attempt: int
    node: str


class Place:
    def __init__(self, folder, cluster):
        self.folder = folder
        self.cluster = cluster
        self.csv = folder / "runs.csv"
        self._cells = folder / "cells"
        self._cells.mkdir(parents=True)

    def order(self, what, *seeds):
        """Say what workers of cells do from now on: sleep for so many seconds, or `crash`."""
        for seed in seeds:
            path = self._cells / str(seed)
            path.with_suffix(".new").write_text(what)
            path.with_suffix(".new").replace(path)

    def start(self, *options):
        """Start a command, with options of `tests.slurm.stub_grid`, in a process group."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.slurm.stub_grid", str(self.folder), *options],
            env=self.cluster.environment | {POLL: POLL_S, CELLS: str(self._cells)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def end(self, command):
        out, err = command.communicate(timeout=LONGEST_S)
        return subprocess.CompletedProcess(command.args, command.returncode, out, err)

    def run(self, *options):
        return self.end(self.start(*options))

    def starts(self):
        lines = read(self._cells / STARTS).decode().splitlines()
        words = (line.split(" ") for line in lines)
        return [Start(int(seed), int(attempt), node) for seed, attempt, node in words]

    def wait_for_starts(self, number):
        self.cluster.wait_for(lambda: len(self.starts()) >= number, f"{number} workers")

    def submissions(self):
        """The submissions so far, oldest first. One that was killed lacks what is written last."""
        folder = submissions_folder(self.csv)
        return [Submission(path.parent) for path in sorted(folder.glob("[0-9]*/request.json"))]

    def job(self):
        return str(self.submissions()[-1].job)

    def array_task(self, seed):
        groups = self.submissions()[-1].groups
        index = next(i for i, group in enumerate(groups) if group[0].job.cell.seed == seed)
        return f"{self.job()}_{index}"

    def rows(self):
        return records(read(self.csv))

    def statuses(self):
        """Statuses of the attempts at each cell, by its seed, in the order of the attempts."""
        by_seed = {}
        for row in sorted(self.rows(), key=lambda row: int(row["attempt"])):
            by_seed.setdefault(int(row["seed"]), []).append(row["status"])
        return by_seed

    def problems(self):
        """Rows that are there twice, or differ from those that `bench.rebuild` finds."""
        copy = self.folder / "rebuilt"
        copy.mkdir()
        shutil.copytree(self.folder / "runs", copy / "runs")
        rebuild(copy / "runs.csv")
        rebuilt = records((copy / "runs.csv").read_bytes())
        shutil.rmtree(copy)
        before, after = (
            Counter(tuple(row.items()) for row in rows) for rows in (self.rows(), rebuilt)
        )
        return repeated_rows(read(self.csv)) + [
            f"bench.rebuild {verb} {dict(row)['cell_id']}, attempt {dict(row)['attempt']}"
            for verb, rows in (("lacks", before - after), ("adds", after - before))
            for row in rows
        ]
