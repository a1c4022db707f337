"""Measure how often verdicts on claims are wrong, write the pages, and supply the rows of claims.

Example: python -m tests.experiments.claims simulate
"""

import json
from pathlib import Path

import click

from tests.experiments.claims import FIGURES, PAGES, WORLDS, measure, page, read_figures, verdicts


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.option(
    "--runs", default=3000, show_default=True,
    help="Draws of each scenario at the margin, and four times those of others.",
)  # fmt: skip
@click.option("--only", default="", help="Only scenarios whose name has this; writes nothing.")
def simulate(runs: int, only: str) -> None:
    """Draw data of known truth, judge them, and write docs/claims.json."""
    found = []
    for world in (world for world in WORLDS if only in world.name):
        found.append(measure(world, runs if world.is_worst else runs // 4))
        click.echo(json.dumps(found[-1]))
    if not only:
        text = json.dumps({"scenarios": found}, indent=1)
        FIGURES.write_text(f"{text}\n", encoding="utf-8")


@main.command()
def pages() -> None:
    """Write the tables of docs/paper.md and docs/claims.md."""
    for path in PAGES:
        text = page(path.read_text(encoding="utf-8"), read_figures(), verdicts())
        path.write_text(text, encoding="utf-8")


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("part", type=click.Choice(["all", "scores", "costs", "ranks", "test", "updates"]))
@click.argument("options", nargs=-1)
@click.option("--folder", default="runs/claims", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="The folder of SST and STS.")
@click.option("--gpu", is_flag=True, help="Costs are of a GPU.")
def rows(part: str, options: tuple[str, ...], folder: Path, data: Path | None, gpu: bool) -> None:
    """Train what claims lack, or continue, and keep the rows in docs/; OPTIONS are of bench.grid.

    All of it takes an estimated five hours on two cores.
    """
    from tests.experiments.claims import evidence  # loads torch

    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name in evidence.PARTS if part == "all" else [part]:
        more: dict[str, object] = {}
        if name == "updates":
            if data is None:
                raise click.UsageError("--data: name the folder of SST and STS")
            more = {"data": data.resolve()}
        if name == "costs" and gpu:
            more = {"name": "claims-costs-gpu"}
        evidence.PARTS[name](folder, options, **more)


if __name__ == "__main__":
    main()
