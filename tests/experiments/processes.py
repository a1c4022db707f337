"""Many calls at once, each in one of some processes that begin anew."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import click
from rich.console import Console
from rich.progress import track

from tests.experiments.pages import rewrite, write_json


def in_processes(processes, calls, initializer=None, *arguments):
    """The results of calls, each a function and its arguments, in order; with a progress bar."""
    spawn, console = get_context("spawn"), Console(stderr=True)
    with ProcessPoolExecutor(processes, spawn, initializer, arguments) as pool:
        futures = [pool.submit(*call) for call in calls]
        try:
            for future in track(futures, "", console=console):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def scenarios_command(about, of):
    """Measures the scenarios of a module over a number of runs; writes figures and the page."""

    @click.command(help=about)
    @click.option("--runs", default=1000, show_default=True, help="Draws of each scenario.")
    @click.option("--page", "only_page", is_flag=True, help="Only write the page.")
    def main(runs, only_page):
        if not only_page:
            os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of the processes
            scenarios = []
            for figures in in_processes(2, of.calls(runs)):
                scenarios.append(figures)
                click.echo(json.dumps(figures))
            write_json(of.FIGURES, {"runs": runs, **of.parts(scenarios)})
        rewrite(of.PAGE, of.page, of.read_figures())

    return main
