"""Grids on a simulated cluster of many nodes, of two kinds, where much goes wrong."""

import os
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.bench.grids import GridRuns
from tests.experiments.faults.parent import stub_report
from tests.slurm import simulation
from tests.slurm.simulation import Simulation

GRID = """
[settings]
model = "bert-tiny"
init = "random"
seeds = 2

[[cells]]
mode = ["lora", "dora"]
rank = [1, 2, 4]
layers = ["attn-only", "attn", "all-lin"]
amp = ["off", "on"]
"""
CELLS = 2 * 3 * 3 * 2 * 2
FATES = dict.fromkeys(
    (
        simulation.CRASHED, simulation.NODE_FAILS, simulation.REQUEUED, simulation.CANCELLED,
        simulation.KILLED, simulation.NEVER_BEGAN,
    ), 0.07,
)  # fmt: skip


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """A place with the grid; nothing waits for a disk."""
    monkeypatch.setattr(os, "fsync", lambda _file: None)
    monkeypatch.setitem(sys.modules, "bench.report.render", SimpleNamespace(render=stub_report))
    (tmp_path / "many.toml").write_text(GRID)
    return GridRuns(tmp_path, Path("bert-tiny"))


@pytest.fixture
def slurm():
    with Simulation(nodes=20, fates=FATES, max_array_size=21, max_job_count=55) as cluster:
        yield cluster


def run(grid, *options):
    done = grid.run("--executor", "slurm", *options, grid=str(grid.folder / "many.toml"))
    return done.returncode, done.stdout, done.stderr


def test_every_cell_has_one_result_whatever_happens_to_array_tasks(grid, slurm):
    code, out, err = run(grid)
    assert code == 1, err
    ends, rows = slurm.ends, grid.rows()
    assert all(ends[fate] for fate in FATES)
    assert ends[simulation.OK] + sum(ends[fate] for fate in FATES) > CELLS
    assert Counter(row.status for row in rows) == {
        "ok": ends[simulation.OK],
        "crashed": ends[simulation.CRASHED],
        "oom": ends[simulation.KILLED],
        "interrupted": sum(
            ends[fate]
            for fate in (simulation.REQUEUED, simulation.CANCELLED, simulation.NODE_FAILS)
        ),
    }
    assert f"{ends[simulation.OK]} ok" in out, "cells of both kinds of nodes"
    assert f"{ends[simulation.NEVER_BEGAN]} not run" in out
    assert len({row.conditions_id for row in rows}) == 2
    assert set(slurm.submitted[:2]) == {21}
    assert (sum(slurm.submitted), slurm.most_running) == (CELLS, 20)

    slurm.fates.clear()
    assert run(grid)[0] == 1, "what crashed waits for --rerun"
    skipped = grid.statuses().count("skipped")  # since smaller ones ran out of memory
    again = ends[simulation.NEVER_BEGAN] + ends[simulation.CANCELLED] - skipped
    assert sum(slurm.submitted) == CELLS + again
    assert run(grid, "--rerun", "crashed")[0] == 1
    run(grid, "--rerun", "oom")
    assert run(grid, "--rerun", "skipped")[0] == 0
    rows = grid.rows()
    ok = Counter(row.cell_id for row in rows if row.is_ok)
    assert (len(ok), set(ok.values())) == (CELLS, {1})
    assert len({row.row_key for row in rows}) == len(rows)
    assert run(grid)[0] == 0
    assert len(grid.rows()) == len(rows), "nothing is left to do"
