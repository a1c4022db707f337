"""Measure how often the rule of bench.recommend is right, on data of known truth.

Example: python -m tests.experiments.decisions --runs 1000
"""

import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import click

from tests.experiments.decisions import (
    FIGURES,
    PAGE,
    every_world,
    measure_number,
    page,
    read_figures,
)
from tests.experiments.decisions.worlds import worlds


@click.command(help=__doc__)
@click.option("--runs", default=1000, show_default=True, help="Data sets of each scenario.")
@click.option("--only", default="", help="Only scenarios whose name has this; writes nothing.")
@click.option("--page", "only_page", is_flag=True, help=f"Only write {PAGE.name}.")
@click.option("--processes", default=2, show_default=True, help="Scenarios at a time.")
def main(runs: int, only: str, only_page: bool, processes: int) -> None:
    if not only_page:
        numbers = [i for i, world in enumerate(every_world()) if only in world.name]
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of the processes, which are started anew
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            futures = {pool.submit(measure_number, number, runs): number for number in numbers}
            done = {}
            for future in as_completed(futures):
                done[futures[future]] = future.result()
                click.echo(f"{len(done)}/{len(numbers)} {json.dumps(future.result())}")
        if only:
            return
        scenarios, covered = [done[number] for number in numbers], len(worlds())
        figures = {"runs": runs, "scenarios": scenarios[:covered], "beyond": scenarios[covered:]}
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    text = page(PAGE.read_text(encoding="utf-8"), read_figures())
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
