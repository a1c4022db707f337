"""`python -m tests.slurm.stub_grid FOLDER --cells 8`: `bench.grid --executor slurm` for a runs.csv
in a folder, but for its cells' model and data, its worker and its report."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import click

from bench.common.command import run_command
from bench.executors.slurm.executor import find_cluster
from bench.executors.slurm.options import parse_request
from bench.grid.plans import Kinds
from bench.results.store import Store
from tests.experiments.faults.parent import stub_report
from tests.experiments.faults.setups import setup

WORKER = (sys.executable, "-S", "-m", "tests.slurm.stub_worker")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--cells", default=4)
@click.option("--slurm", default="")
@click.option("--rerun")
def main(folder, cells, slurm, rerun):
    sys.modules["bench.report.render"] = SimpleNamespace(render=stub_report)
    made, runs = setup("fake", seeds=cells), folder / "runs.csv"
    store = Store(runs)
    executor = find_cluster(store, parse_request(slurm), "cpu", [], dry_run=False)
    executor._submitter = replace(executor._submitter, worker=WORKER)
    kinds = Kinds(made.grid, lambda: executor.kinds.values())
    planned = kinds.plan(made.cells, store.rows, rerun=rerun)
    options = {"store": store, "executor": executor, "keep": True}
    return made.session(runs, [], arguments=tuple(sys.argv[1:]), **options).run([planned])


if __name__ == "__main__":
    run_command(main)
