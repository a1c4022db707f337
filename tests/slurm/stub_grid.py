"""`bench.grid --executor slurm`, but for its cells' model and data, its worker and its report.

`python -m tests.slurm.stub_grid FOLDER --cells 8`, for a runs.csv in a folder.
"""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import click

from bench.common.command import run_command
from bench.executors.slurm.executor import find_cluster
from bench.executors.slurm.options import parse_request
from bench.grid.plans import Kinds
from bench.grid.session import Session
from bench.results.store import Store
from tests.experiments.faults.parent import stub_report
from tests.experiments.faults.setups import setup

WORKER: Final = (sys.executable, "-S", "-m", "tests.slurm.stub_worker")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--cells", default=4)
@click.option("--first", default=0)
@click.option("--slurm", default="")
@click.option("--max-running", type=int)
@click.option("--timeout", type=float)
@click.option("--rerun")
def main(
    folder: Path,
    cells: int,
    first: int,
    slurm: str,
    max_running: int | None,
    timeout: float | None,
    rerun: str | None,
) -> int:
    """Run the cells with the seeds from `first` on that lack a result."""
    sys.modules["bench.report.render"] = SimpleNamespace(render=stub_report)  # type: ignore[assignment]
    made, runs = setup("fake"), folder / "runs.csv"
    settings = made.grid.settings.model_copy(update={"seeds": first + cells})
    made = replace(made, grid=made.grid.model_copy(update={"settings": settings}))
    store, request = Store(runs), parse_request(slurm, max_running)
    executor = find_cluster(store, request, "cpu", [], dry_run=False)
    executor._submitter = replace(executor._submitter, worker=WORKER)
    kinds = Kinds(made.grid, lambda: executor.kinds.values())
    planned = kinds.plan(made.cells[first:], store.rows, rerun=rerun)
    return Session(
        inputs=made.inputs,
        executor=executor,
        store=store,
        reports=folder / "reports",
        keep=True,
        timeout_s=timeout,
        arguments=tuple(sys.argv[1:]),
    ).run([planned])


if __name__ == "__main__":
    run_command(main)
