"""`bench.grid --executor slurm` on a simulated cluster, and plans for nodes of several kinds."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.executors.slurm.submission import Submission, submissions_folder
from bench.grid.plans import Kinds
from tests.bench.grids import GridRuns
from tests.bench.synthetic_rows import planned_row
from tests.experiments.faults.parent import stub_report
from tests.experiments.faults.setups import setup
from tests.slurm.place import PAIRS
from tests.slurm.simulation import Simulation

SLURM = ("--executor", "slurm")


@pytest.fixture(autouse=True)
def report(monkeypatch):
    monkeypatch.setitem(sys.modules, "bench.report.render", SimpleNamespace(render=stub_report))


def test_a_dry_run_prints_the_script_and_leaves_nothing(grid):
    options = ("--slurm", "partition=main exclusive", "--select", "mode=head")
    with Simulation(nodes=2) as slurm:
        done = grid.finish(*SLURM, *options, "--dry-run", forecast=False)
    plan, script = done.stdout.split("the job script that would be submitted:\n\n")
    assert "2 cells: 2 to run, 0 not" in plan
    lines = {"#!/bin/sh", "#SBATCH --partition=main", "#SBATCH --exclusive"}
    assert lines < {*script.splitlines()}
    assert "no node has been asked yet" in done.stderr
    assert slurm.submitted == []
    assert list(grid.folder.iterdir()) == []


def test_a_search_for_rates_is_an_array_for_each_round(grid):
    command = (*SLURM, "--lr", "auto", "--select", "mode=head,full amp=off")
    with Simulation(nodes=4) as slurm:
        grid.finish(*command)
        rows = grid.rows()
        grid.finish(*command)
    assert grid.rows() == rows, "nothing is left to do"
    assert len({row.cell_id for row in rows}) == len(rows) == sum(slurm.submitted)
    assert (slurm.submitted[0], slurm.submitted[-1]) == (6, 2)
    assert {row.learning_rate_source for row in rows if not row.is_candidate} == {"search"}


def test_cells_that_are_compared_run_one_after_the_other_on_a_node(tmp_path):
    (tmp_path / "pairs.toml").write_text(PAIRS)
    pairs = GridRuns(tmp_path, Path("bert-tiny"))
    with Simulation(nodes=2) as slurm:
        pairs.finish(*SLURM, grid=str(pairs.folder / "pairs.toml"))
    assert slurm.submitted == [2]
    [submission] = map(Submission, submissions_folder(pairs.csv).glob("2*"))
    groups = [[run.job.cell for run in group] for group in submission.groups]
    batchings = [{cell.batching for cell in group} for group in groups]
    assert batchings == 2 * [{"by-length", "shuffled"}]
    assert sorted([*{cell.mode for cell in group}] for group in groups) == [["full"], ["head"]]
    rows = pairs.rows()
    assert [row.status for row in rows] == 4 * ["ok"]
    kinds = {(row.mode, row.conditions_id) for row in rows}
    assert len(kinds) == len(dict(kinds)) == 2, "each pair is on one kind of nodes"


def test_a_result_on_any_kind_counts_and_so_does_the_number_of_an_attempt():
    """It may run on either, and two rows of one number would be taken for one."""
    made = setup("fake")
    target, cell = made.target("a"), made.cells[0]
    first, other = (replace(target.conditions, machine=name) for name in ("first", "other"))
    targets = [replace(target, conditions=each) for each in (first, other)]

    def planned(*rows, **options):
        rows = [planned_row(cell) | on.columns() | {"status": status, "attempt": attempt}
                for on, status, attempt in rows]  # fmt: skip
        [item] = Kinds(made.grid, lambda: targets).plan([cell], rows, **options)
        machine = {each.conditions_id: each.machine for each in (first, other)}
        return machine[item.conditions_id], item.action, item.attempt

    assert planned() == ("first", "run", 1)
    assert planned((first, "crashed", 1), (other, "ok", 1)) == ("other", "done", 2)
    assert planned((first, "interrupted", 1), (other, "crashed", 1)) == ("other", "kept", 2)
    assert planned((other, "interrupted", 1), (other, "interrupted", 2)) == ("first", "run", 3)
    assert planned((other, "crashed", 1), rerun="crashed") == ("other", "run", 2)
