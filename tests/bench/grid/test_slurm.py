"""`bench.grid --executor slurm` as a whole command, on a simulated cluster and on a real one."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.executors.slurm.cluster import find_cluster
from bench.executors.slurm.executor import POLL, SlurmExecutor
from bench.executors.slurm.submission import submissions_folder
from bench.grid import __main__ as module
from bench.results.row import kept_row
from tests.bench.grids import GridRuns
from tests.faults.parent import stub_report
from tests.slurm.cluster import NODES, Cluster
from tests.slurm.place import POLL_S
from tests.slurm.simulation import Simulation
from tests.slurm.stub_grid import WORKER
from tests.slurm.stub_worker import CELLS

SLURM = ("--executor", "slurm")
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


@pytest.fixture(autouse=True)
def report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is a stub, which needs no matplotlib."""
    monkeypatch.setitem(sys.modules, "bench.report.render", SimpleNamespace(render=stub_report))


@pytest.fixture
def pairs(tmp_path: Path) -> GridRuns:
    """A place with a grid of pairs of cells."""
    (tmp_path / "pairs.toml").write_text(PAIRS)
    return GridRuns(tmp_path, Path("bert-tiny"))


def test_a_dry_run_prints_the_script_and_leaves_nothing(grid: GridRuns) -> None:
    options = ("--slurm", "partition=main exclusive", "--select", "mode=head")
    with Simulation(nodes=2) as slurm:
        done = grid.run(*SLURM, *options, "--dry-run")
    assert done.returncode == 0, done.stderr
    plan, script = done.stdout.split("the job script that would be submitted:\n\n")
    assert "2 cells: 2 to run, 0 not" in plan
    assert {"#!/bin/sh", "#SBATCH --partition=main", "#SBATCH --exclusive"} < set(
        script.splitlines()
    )
    assert "no node has been asked yet" in done.stderr
    assert slurm.submitted == []
    assert list(grid.folder.iterdir()) == []


def test_nodes_are_checked_whenever_it_is_wanted(
    pairs: GridRuns, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, so that the second check does not use the folders of the first."""

    def with_stub_workers(*arguments: Any, **options: Any) -> SlurmExecutor:
        executor = find_cluster(*arguments, **options)
        executor._submitter = replace(executor._submitter, worker=WORKER)
        return executor

    monkeypatch.setattr(module, "find_cluster", with_stub_workers)
    orders = pairs.folder / "orders"
    orders.mkdir()
    (orders / "0").write_text("0.5")  # so that both nodes work at the same time
    for name, value in (cluster.environment | {CELLS: str(orders), POLL: POLL_S}).items():
        monkeypatch.setenv(name, value)
    options = ("--slurm", "exclusive", "--check-nodes", "--select", "mode=head batching=by-length")
    for _ in range(2):
        done = pairs.run(*SLURM, *options, grid=str(pairs.folder / "pairs.toml"))
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stderr.splitlines() if "ms for 1,000 tokens" in line]
        assert [line.split()[1] for line in lines] == list(NODES)
    folder = submissions_folder(pairs.csv) / "nodes"
    for node in NODES:
        rows = [kept_row(place) for place in (folder / node).glob("head-*")]
        assert sorted((row.status, row.attempt) for row in rows) == [("ok", 1), ("ok", 2)]
    assert pairs.statuses() == ["ok"]
