"""Measure how often the rule of bench.recommend is right, on data of known truth.

Example: python -m tests.decisions --runs 1000
"""

import json
import time

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeRemainingColumn as Left

from tests.decisions import FIGURES, PAGE, measure, page, read_figures
from tests.decisions.worlds import worlds


@click.command(help=__doc__)
@click.option("--runs", default=1000, show_default=True, help="Data sets of each scenario.")
@click.option("--only", default="", help="Only scenarios whose name has this; writes nothing.")
@click.option("--page", "only_page", is_flag=True, help=f"Only write {PAGE.name}.")
def main(runs: int, only: str, only_page: bool) -> None:
    if not only_page:
        begun, every = time.monotonic(), [world for world in worlds() if only in world.name]
        scenarios = []
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Left())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            bar = progress.add_task("data sets", total=runs * len(every))
            for world in every:
                progress.update(bar, description=world.name)
                scenarios.append(measure(world, runs, lambda: progress.advance(bar)))
                progress.console.print(json.dumps(scenarios[-1]), soft_wrap=True)
        if only:
            return
        minutes = round((time.monotonic() - begun) / 60)
        figures = {"runs": runs, "minutes": minutes, "scenarios": scenarios}
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    text = page(PAGE.read_text(encoding="utf-8"), read_figures())
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
