"""`bench.grid --executor slurm` as a whole command, on a simulated cluster, and plans for nodes of
several kinds."""

import sys
from collections import Counter
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


@pytest.fixture(autouse=True)
def report(monkeypatch):
    """The report is a stub, which needs no matplotlib."""
    monkeypatch.setitem(sys.modules, "bench.report.render", SimpleNamespace(render=stub_report))


def submissions(grid):
    """The submissions of a grid's commands, oldest first."""
    return [Submission(path) for path in sorted(submissions_folder(grid.csv).glob("2*"))]


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
    assert len(submissions(grid)) == len(slurm.submitted)
    rates = attrgetter("learning_rate", "learning_rate_base", "learning_rate_head")
    final = [row for row in rows if not row.is_candidate]
    assert {row.mode for row in final} == {"full", "head"}
    for row in final:
        tries = [each for each in rows if each.is_candidate and each.mode == row.mode]
        assert row.learning_rate_source == "search"
        assert rates(row) == rates(max(tries, key=lambda each: each.dev_score))


def test_cells_that_are_compared_run_one_after_the_other_on_a_node(tmp_path):
    (tmp_path / "pairs.toml").write_text(PAIRS)
    pairs = GridRuns(tmp_path, Path("bert-tiny"))
    with Simulation(nodes=2) as slurm:
        done = pairs.run(*SLURM, grid=str(pairs.folder / "pairs.toml"))
    assert done.returncode == 0, done.stderr
    assert slurm.submitted == [2]
    (submission,) = submissions(pairs)
    groups = [[run.job.cell for run in group] for group in submission.groups]
    batchings = [{cell.batching for cell in group} for group in groups]
    assert batchings == 2 * [{"by-length", "shuffled"}]
    assert sorted([*{cell.mode for cell in group}] for group in groups) == [["full"], ["head"]]
    rows = pairs.rows()
    assert [row.status for row in rows] == 4 * ["ok"]
    kinds = {(row.mode, row.conditions_id) for row in rows}
    assert len(kinds) == len(dict(kinds)) == 2, "each pair is on one kind of nodes"


FIRST, OTHER = "first", "other"


@pytest.mark.parametrize(
    ("statuses", "options", "planned"),
    [
        ([], {}, (FIRST, "run", 1)),
        ([(FIRST, "crashed"), (OTHER, "ok")], {}, (OTHER, "done", 2)),
        ([(FIRST, "interrupted"), (OTHER, "crashed")], {}, (OTHER, "kept", 2)),
        ([(OTHER, "interrupted"), (OTHER, "interrupted")], {}, (FIRST, "run", 3)),
        ([(OTHER, "crashed")], {"rerun": "crashed"}, (OTHER, "run", 2)),
    ],
)
def test_a_result_on_any_kind_counts_and_so_does_the_number_of_an_attempt(
    statuses, options, planned
):
    """It may run on either, and two rows of one number would be taken for one."""
    made = setup("fake")
    cell, target = made.cells[0], made.target("a")
    kinds = {name: replace(target.conditions, machine=name) for name in (FIRST, OTHER)}
    targets = [replace(target, conditions=kind) for kind in kinds.values()]
    attempts, rows = Counter(), []
    for name, status in statuses:
        attempts[name] += 1
        values = {**kinds[name].columns(), "status": status, "attempt": attempts[name]}
        rows.append(planned_row(cell) | values)
    [item] = Kinds(made.grid, lambda: targets).plan([cell], rows, **options)
    assert (item.conditions_id, item.action, item.attempt) == (
        kinds[planned[0]].conditions_id, *planned[1:]
    )  # fmt: skip
