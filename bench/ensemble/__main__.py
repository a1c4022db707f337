"""An ensemble of cells that have run, chosen on training data that was held out, scored on dev.

Example: python -m bench.ensemble --runs runs.csv --task movies
"""

import json
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from bench.command import run_command
from bench.ensemble.members import Candidates, find
from bench.ensemble.outcome import Outcome, Scored, ensemble_of
from bench.errors import InputError
from bench.models import find_model
from bench.report.text import span
from bench.stats import Interval
from bench.store import read_rows
from minbert.ensemble import AVERAGES, Floats
from minbert.tasks import load_task

_MOST: Final = 25
_EPILOG: Final = """\b
Examples:
  python -m bench.ensemble --runs runs.csv
  python -m bench.ensemble --runs runs.csv --task sst --average logits --json
  python -m bench.ensemble --runs runs.csv --task sst --baselines --data path/to/data
"""


@click.command("python -m bench.ensemble", help=__doc__.partition("\n\n")[0], epilog=_EPILOG)
@click.option(
    "--runs", default="runs.csv", show_default=True, type=click.Path(path_type=Path),
    help="Results whose cells are members.",
)  # fmt: skip
@click.option("--task", help="Which of the tasks in it.")
@click.option("--average", type=click.Choice(AVERAGES), default="probabilities", show_default=True)
@click.option(
    "--most", type=click.IntRange(1, 1000), default=_MOST, show_default=True,
    help="Members at most, each as often as it counts.",
)  # fmt: skip
@click.option(
    "--baselines", is_flag=True,
    help="Also score TF-IDF with a linear model, and for pairs the cosine of embeddings.",
)  # fmt: skip
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="With --baselines: the folder of the task's files.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    runs: Path,
    task: str | None,
    average: str,
    most: int,
    baselines: bool,
    data: Path | None,
    as_json: bool,
) -> int:
    if not runs.is_file():
        raise InputError(f"{runs}: no such file of results; name one with --runs")
    if data is not None and not baselines:
        raise InputError("--data: is for --baselines; members are taken from --runs alone")
    candidates = find(runs, read_rows(runs), task)
    others = scored_beside(candidates, data) if baselines else {}
    found = ensemble_of(candidates, average, most, others)
    if as_json:
        click.echo(json.dumps(_as_json(candidates.task, candidates.metric, found), indent=2))
    else:
        _print(candidates.task, candidates.metric, len(candidates.members), found)
    return 0


def scored_beside(candidates: Candidates, data: Path | None) -> dict[str, Floats]:
    """What baselines predict on the members' dev examples, by name.

    Raises:
        InputError: if these are not at hand, or scikit-learn is not.
    """
    from bench.ensemble.baselines import COSINE, TFIDF, cosine, tfidf

    row = candidates.members[0].row
    names = ("max_train", "max_dev")
    caps = {name: int(cap) for name in names if (cap := row[name]) is not None}
    found = load_task(candidates.task, data, **caps)
    if not found.digest.startswith(str(row["data_digest"])):
        raise InputError(
            f"the examples of {candidates.task} are not those that the cells were trained on"
        )
    predictions = {TFIDF: tfidf(found)}
    model = find_model(str(row["model"]), "pretrained", "auto")
    if model.checkpoint is not None:
        by_cosine = cosine(found, model.checkpoint, int(row["max_length"] or 128))
        predictions |= {} if by_cosine is None else {COSINE: by_cosine}
    return predictions


def _as_json(task: str, metric: str, found: Outcome) -> dict[str, Any]:
    def scored(of: Scored) -> dict[str, Any]:
        return {
            "name": of.name, "dev_score": of.dev.value, "dev_ci_low": of.dev.low,
            "dev_ci_high": of.dev.high, "held_score": of.held, "parameters": of.parameters,
        }  # fmt: skip

    gain = found.gain
    return {
        "task": task, "metric": metric, "average": found.average,
        "ensemble": scored(found.ensemble), "best_member": scored(found.best),
        "baselines": [scored(of) for of in found.baselines],
        "gain": {"value": gain.value, "low": gain.low, "high": gain.high},
        "members": [
            {"name": member.name, "cell_id": member.row["cell_id"], "weight": weight}
            for member, weight in found.members
        ],
    }  # fmt: skip


def _print(task: str, metric: str, count: int, found: Outcome) -> None:
    console = Console(highlight=False)
    table = Table(box=None)
    for head in ("", f"dev {metric}", "95% interval", "held out", "parameters"):
        table.add_column(head, justify="right" if head else "left")
    for of in (found.ensemble, found.best, *found.baselines):
        held = "–" if of.held is None else f"{of.held:.3f}"
        parameters = "–" if of.parameters is None else f"{of.parameters:,}"
        table.add_row(of.name, f"{of.dev.value:.3f}", _told(of.dev), held, parameters)
    console.print(f"{task}: the average of {found.average}, members chosen among {count} cells")
    console.print(table)
    for member, weight in found.members:
        console.print(f"  {weight} × {member.name}")
    gain = found.gain
    console.print(f"against the best member alone: {gain.value:+.3f} ({_told(gain)})")


def _told(interval: Interval) -> str:
    return span(interval, lambda value: f"{value:.3f}") or "no interval"


if __name__ == "__main__":
    run_command(command)
