"""`bench.grid --executor slurm` as a whole command, on a simulated cluster, and plans for nodes of
several kinds."""

import sys
from collections import defaultdict
from dataclasses import replace
from operator import attrgetter
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
BATCHINGS = {"by-length", "shuffled"}


@pytest.fixture(autouse=True)
def report(monkeypatch):
    """The report is a stub, which needs no matplotlib."""
    monkeypatch.setitem(sys.modules, "bench.report.render", SimpleNamespace(render=stub_report))


rates = attrgetter("learning_rate", "learning_rate_base", "learning_rate_head")


@pytest.fixture
def pairs(tmp_path):
    """A place with a grid of pairs of cells."""
    (tmp_path / "pairs.toml").write_text(PAIRS)
    return GridRuns(tmp_path, Path("bert-tiny"))


def submissions(grid):
    """The submissions of a grid's commands, oldest first."""
    return [Submission(path) for path in sorted(submissions_folder(grid.csv).glob("2*"))]


def test_a_dry_run_prints_the_script_and_leaves_nothing(grid):
    options = ("--slurm", "partition=main exclusive", "--select", "mode=head")
    with Simulation(nodes=2) as slurm:
        done = grid.run(*SLURM, *options, "--dry-run", forecast=False)
    assert done.returncode == 0, done.stderr
    plan, script = done.stdout.split("the job script that would be submitted:\n\n")
    assert "2 cells: 2 to run, 0 not" in plan
    assert {"#!/bin/sh", "#SBATCH --partition=main", "#SBATCH --exclusive"} < set(
        script.splitlines()
    )
    assert "no node has been asked yet" in done.stderr
    assert slurm.submitted == []
    assert list(grid.folder.iterdir()) == []


def test_a_search_for_rates_is_an_array_for_each_round(grid):
    command = (*SLURM, "--lr", "auto", "--select", "mode=head,full amp=off")
    with Simulation(nodes=4) as slurm:
        done = grid.run(*command)
        assert done.returncode == 0, done.stderr
        rows = grid.rows()
        assert grid.run(*command).returncode == 0
    assert grid.rows() == rows, "nothing is left to do"
    assert len({row.cell_id for row in rows}) == len(rows) == sum(slurm.submitted)
    assert (slurm.submitted[0], slurm.submitted[-1]) == (6, 2)
    assert len(submissions(grid)) == len(slurm.submitted)
    tries = defaultdict(list)
    for row in rows:
        if row.is_candidate:
            tries[row.mode].append(row)
    final = [row for row in rows if not row.is_candidate]
    assert {row.mode for row in final} == tries.keys()
    for row in final:
        best = max(tries[row.mode], key=lambda each: each.dev_score)
        assert row.learning_rate_source == "search"
        assert rates(row) == rates(best)


def test_cells_that_are_compared_run_one_after_the_other_on_a_node(pairs):
    with Simulation(nodes=2) as slurm:
        done = pairs.run(*SLURM, grid=str(pairs.folder / "pairs.toml"))
    assert done.returncode == 0, done.stderr
    assert slurm.submitted == [2]
    (submission,) = submissions(pairs)
    groups = [[run.job.cell for run in group] for group in submission.groups]
    assert [{cell.batching for cell in group} for group in groups] == 2 * [BATCHINGS]
    modes = [{cell.mode for cell in group} for group in groups]
    assert modes in ([{"full"}, {"head"}], [{"head"}, {"full"}])
    rows = pairs.rows()
    assert [row.status for row in rows] == 4 * ["ok"]
    kinds = {(row.mode, row.conditions_id) for row in rows}
    assert len(kinds) == len(dict(kinds)) == 2, "each pair is on one kind of nodes"


SETUP = setup("fake")
FIRST = SETUP.target("a")
OTHER = replace(FIRST, conditions=replace(FIRST.conditions, machine="other"))
CELL, *_ = SETUP.cells


def row(on, status, attempt=1):
    values = {**on.conditions.columns(), "status": status, "attempt": attempt}
    return planned_row(CELL) | values


def planned(*rows, **options):
    [item] = Kinds(SETUP.grid, lambda: [FIRST, OTHER]).plan([CELL], rows, **options)
    return item.conditions_id, item.action, item.attempt


def test_a_result_on_any_kind_counts():
    first, other = FIRST.conditions.conditions_id, OTHER.conditions.conditions_id
    assert planned() == (first, "run", 1)
    assert planned(row(FIRST, "crashed"), row(OTHER, "ok")) == (other, "done", 2)
    assert planned(row(FIRST, "interrupted"), row(OTHER, "crashed")) == (other, "kept", 2)


def test_no_attempt_has_the_number_of_one_on_another_kind():
    """It may run on either, and two rows of one number would be taken for one."""
    first, other = FIRST.conditions.conditions_id, OTHER.conditions.conditions_id
    rows = row(OTHER, "interrupted"), row(OTHER, "interrupted", 2)
    assert planned(*rows) == (first, "run", 3)
    assert planned(row(OTHER, "crashed"), rerun="crashed") == (other, "run", 2)
