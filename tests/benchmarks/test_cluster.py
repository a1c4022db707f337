"""Grids on clusters: 4,500 cells on 400 simulated nodes, and stub cells on two real ones."""

import os
import resource
from pathlib import Path
from time import perf_counter
from unittest import mock

from bench.forecast import outlook
from bench.forecast.costs import Load, Totals
from tests.bench.grids import GridRuns
from tests.slurm.cluster import NODES
from tests.slurm.place import Place
from tests.slurm.simulation import Simulation

GRID = """
[settings]
model = "bert-tiny"
init = "random"
seeds = 3
[[cells]]
mode = ["lora", "dora"]
rank = [1, 2, 4, 8, 16]
layers = ["attn-only", "attn", "all-lin-only", "all-lin", "query+value"]
amp = ["off", "on"]
batch_size = [8, 16, 32]
learning_rate = {rates}
"""
CELLS_OF_A_RATE = 2 * 5 * 5 * 2 * 3 * 3
MOST_RATIO = 5.75  # of the time of a fifth of the cells
CELL_S = 2.0  # what a stub cell works


def costs(jobs, *_):
    sizes = {variant: 10.0 + (variant.rank or 0) for variant in jobs}
    loads = {variant: Load(size, size, size) for variant, size in sizes.items()}
    return {v: Totals(*[size] * 4, *[loads[v]] * 3, size, size) for v, size in sizes.items()}


def run_all(folder, rates):
    """Run a grid to its report; the seconds besides those of nodes and of Slurm, and both."""
    folder.mkdir()
    (folder / "many.toml").write_text(GRID.format(rates=[1e-4 * (n + 1) for n in range(rates)]))
    grid = GridRuns(folder, Path("bert-tiny"))
    most = rates * CELLS_OF_A_RATE * 5 // 9  # more than one array, as 18,000 cells by default
    begun = perf_counter()
    with (
        mock.patch.object(outlook, "find_costs", costs),
        Simulation(nodes=400, max_job_count=most) as slurm,
    ):
        done = grid.run(
            "--executor", "slurm", forecast=True, references=True, grid=str(folder / "many.toml")
        )
    assert done.returncode == 0, done.stderr[-1000:]
    return perf_counter() - begun - slurm.seconds, grid.csv, slurm


def test_4_500_cells_take_five_times_as_long_as_900(benchmark, tmp_path, monkeypatch):
    """Without the nodes' own work and syncs to the disk. A fifth runs before the whole and, if that
    took longer than its limit, after it: the machine may have been slower meanwhile."""
    monkeypatch.setattr(os, "fsync", lambda _file: None)
    run_all(tmp_path / "warm", 1)
    fifth_s, _, _ = run_all(tmp_path / "fifth", 1)
    seconds, csv, slurm = benchmark.pedantic(run_all, args=(tmp_path / "all", 5), rounds=1)
    if seconds > MOST_RATIO * fifth_s:
        after_s, _, _ = run_all(tmp_path / "after", 1)
        fifth_s = (fifth_s + after_s) / 2
    cells = 5 * CELLS_OF_A_RATE
    ids = [line.split(b",", 2)[1] for line in csv.read_bytes().splitlines()][1:]
    assert len(ids) == len(set(ids)) == cells
    assert slurm.most_running == 400
    benchmark.extra_info |= {
        "cells": cells, "arrays": len(slurm.submitted), "calls": dict(slurm.calls),
        "seconds": round(seconds, 1), "seconds_of_a_fifth": round(fifth_s, 1),
        "ms_per_cell": round(1000 * seconds / cells, 2),
        "csv_bytes": csv.stat().st_size,
        "plan_bytes": (csv.parent / "runs" / "plan.json").stat().st_size,
        "report_bytes": (csv.parent / "reports" / "index.html").stat().st_size,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }  # fmt: skip
    assert seconds <= MOST_RATIO * fifth_s


def test_two_nodes_take_half_the_time_and_cells_have_little_overhead(benchmark, tmp_path, cluster):
    """The overhead of a cell is what it takes beyond its work and a job that does nothing, both
    one after the other on one node. Times are from the first cell's start to the last row."""
    seeds = range(4)
    alone = f"exclusive nodelist={NODES[0]}"

    def run(name, slurm):
        place = Place(tmp_path / name, cluster)
        place.order(str(CELL_S), *seeds)
        done = place.run("--cells", str(len(seeds)), "--slurm", slurm)
        assert done.returncode == 0, done.stderr
        (submission,) = place.submissions()
        starts = sorted(path.stat().st_mtime for path in (submission.folder / "starts").iterdir())
        return starts, max(path.stat().st_mtime for path in submission.rows.iterdir()) - starts[0]

    starts, alone_s = run("one", alone)
    _, both_s = benchmark.pedantic(run, args=("both", "exclusive"), rounds=1)
    words = [f"--{word}" for word in alone.split()]
    job = cluster.submit("date +%s.%N", f"--array=0-{len(seeds) - 1}", *words)
    cluster.wait_for(lambda: not cluster.queue(), "the queue is empty")
    files = (cluster.folder / f"job-{job}-{index}.out" for index in range(len(seeds)))
    idle = sorted(float(file.read_text()) for file in files)
    idle_s, cell_s = ((times[-1] - times[0]) / (len(times) - 1) for times in (idle, starts))
    share = both_s / alone_s
    overhead_s = cell_s - CELL_S - idle_s
    values = {"share": share, "cell_s": cell_s, "job_s": idle_s, "overhead_s": overhead_s}
    benchmark.extra_info |= {name: round(value, 3) for name, value in values.items()}
    assert share <= 0.55, "of one node's time"
    assert overhead_s < 2.0
