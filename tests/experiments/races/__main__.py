"""Measure how often a race is wrong, decided, and what it saves.

Example: python -m tests.experiments.races --runs 1000
"""

import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import click

from tests.experiments.races import FIGURES, PAGE, measure, page, read_figures, worlds


@click.command(help=__doc__)
@click.option("--runs", default=1000, show_default=True, help="Races of each scenario.")
@click.option("--only", default="", help="Only scenarios whose name has this; writes nothing.")
@click.option("--page", "only_page", is_flag=True, help=f"Only write {PAGE.name}.")
@click.option("--processes", default=2, show_default=True, help="Scenarios at a time.")
def main(runs: int, only: str, only_page: bool, processes: int) -> None:
    if not only_page:
        numbers = [i for i, world in enumerate(worlds()) if only in world.name]
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of the processes, which are started anew
        done = {}
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            futures = {pool.submit(measure, number, runs): number for number in numbers}
            for future in as_completed(futures):
                done[futures[future]] = future.result()
                click.echo(f"{len(done)}/{len(numbers)} {json.dumps(future.result())}")
        if only:
            return
        figures = {"runs": runs, "scenarios": [done[number] for number in numbers]}
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), read_figures()), encoding="utf-8")


if __name__ == "__main__":
    main()
