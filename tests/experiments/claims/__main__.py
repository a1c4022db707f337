"""Measure how often verdicts on claims are wrong, write the pages, and supply the rows of claims.

Example: python -m tests.experiments.claims simulate
"""

import json
from pathlib import Path

import click

from bench.analysis.claims import judge_file
from tests.experiments.claims import CLAIMS, FIGURES, PAGES, WORLDS, measure, page
from tests.experiments.pages import read_json, rewrite, write_json


@click.group(help=__doc__)
def main():
    pass


@main.command()
@click.option(
    "--runs", default=3000, show_default=True,
    help="Draws of each scenario at the margin, and four times those of others.",
)  # fmt: skip
@click.option("--only", default="", help="Only scenarios whose name has this; writes nothing.")
def simulate(runs, only):
    """Draw data of known truth, judge them, and write docs/claims.json."""
    found = []
    for world in (world for world in WORLDS if only in world.name):
        is_worst = world.promised and (world.difference is None or world.first is not None)
        found.append(measure(world, runs if is_worst else runs // 4))
        click.echo(json.dumps(found[-1]))
    if not only:
        write_json(FIGURES, {"scenarios": found})


@main.command()
def pages():
    """Write the tables of docs/paper.md and docs/claims.md."""
    for path in PAGES:
        rewrite(path, page, read_json(FIGURES), judge_file(CLAIMS))


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("part", type=click.Choice(["all", "scores", "costs", "ranks", "updates"]))
@click.argument("options", nargs=-1)
@click.option("--folder", default="runs/claims", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="The folder of SST and STS.")
@click.option("--gpu", is_flag=True, help="Costs are of a GPU.")
def rows(part, options, folder, data, gpu):
    """Train what claims lack, or continue, and keep the rows in docs/; OPTIONS are of bench.grid.

    All of it takes an estimated five hours on two cores.
    """
    from tests.experiments.claims import evidence  # loads torch

    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if part in ("all", "scores"):
        evidence.scores(folder, options)
    if part in ("all", "costs"):
        evidence.costs(folder, options, "claims-costs-gpu" if gpu else "claims-costs")
    if part in ("all", "ranks"):
        evidence.ranks(folder, options)
    if part in ("all", "updates"):
        if data is None:
            raise click.UsageError("--data: name the folder of SST and STS")
        evidence.updates(folder, options, data.resolve())


if __name__ == "__main__":
    main()
