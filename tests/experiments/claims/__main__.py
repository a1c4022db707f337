"""Measure how often verdicts on claims are wrong, write the pages, and supply the rows of claims.

Example: python -m tests.experiments.claims simulate"""

import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pandas as pd

from bench.analysis.claims import judge_file
from bench.machine.conditions import find_conditions
from bench.plan.cell import digest
from bench.plan.columns import NAMES
from bench.results import outcomes
from bench.results.origins import data_folder, examples_of, model_of
from bench.results.predictions import keep_outcomes, outcome_of
from bench.results.rowfile import encode, read_rows, record
from bench.stats.best import ROUNDS
from bench.studies.updates import weights
from bench.studies.updates.cells import find
from minbert.data.tasks import find_task, load_task, load_test
from tests.experiments.claims import CLAIMS, FIGURES, PAGES, WORLDS, measure, page
from tests.experiments.pages import DOCS, ROOT, read_json, rewrite, write_json
from tests.experiments.rates import copy_rows, write_examples

RANKS = (1, 2, 4, 8, 16, 32)
TASKS = ("movies", "amazon", "nyt", "tweets")


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
@click.argument("part", type=click.Choice(["all", "scores", "costs", "ranks", "test", "updates"]))
@click.argument("options", nargs=-1)
@click.option("--folder", default="runs/claims", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="The folder of SST and STS.")
@click.option("--gpu", is_flag=True, help="Costs are of a GPU.")
def rows(part, options, folder, data, gpu):
    """Train what claims lack in a folder, or continue from there and from the rows in docs/, where
    rows and outcomes are kept; OPTIONS are of bench.grid.

    All of it took nine hours on two busy cores."""
    if part in ("all", "updates") and data is None:
        raise click.UsageError("--data: name the folder of SST and STS")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if part in ("all", "scores"):
        scores(folder, options)
    if part in ("all", "costs"):
        costs(folder, options, "claims-costs-gpu" if gpu else "claims-costs")
    if part in ("all", "ranks"):
        ranks(folder, options)
    if part in ("all", "test"):
        test_splits(folder, options)
    if part in ("all", "updates"):
        updates(folder, options, data.resolve())


def scores(folder, options):
    """All settings in the five rounds of a race, and LoRA with another seed in each."""
    runs = _runs(folder, "claims-scores")
    for task in TASKS:
        for first, select in ((0, []), (ROUNDS, ["--select", "mode=lora"])):
            seeds = ", ".join(map(str, range(first, first + ROUNDS)))
            code = f"from tests.experiments.races.replay import every_round; every_round({seeds})"
            _grid(["-c", code], "scores.toml", runs, "--race", "--lr", "auto", "--task", task,
                  *select, *options)  # fmt: skip
            _keep(runs)


def costs(folder, options, name):
    """All settings in turn with each of eight seeds, scored on all other examples."""
    runs = _runs(folder, name)
    _grid(["-m", "bench.grid"], "costs.toml", runs, *_others("movies", folder), *options)
    _keep(runs)


def ranks(folder, options):
    runs = _runs(folder, "claims-ranks")
    for task in ("movies", "nyt"):
        _grid(["-m", "bench.grid"], "ranks.toml", runs, *_others(task, folder), *options)
        _keep(runs)


def test_splits(folder, options):
    """Two ranks, trained on all training examples at the rates that `scores` found, and scored on
    the test examples of the embedded tasks, which no other experiment reads."""
    runs, template = _runs(folder, "claims-test"), Path(__file__).with_name("test.toml").read_text()
    rates = {
        (row.task, row.rank): (row.learning_rate, row.learning_rate_head)
        for row in read_rows(DOCS / "claims-scores.csv") if row.mode == "lora" and row.race
    }  # fmt: skip
    for task in TASKS:
        data = []
        for flag, part in (("--data", load_task(task).train), ("--validation", load_test(task))):
            labels = [find_task(task).classes[int(label)] for label in part.labels]
            path = folder / f"{task}-split{flag}.csv"
            pd.DataFrame({"text": part.columns[0], "label": labels}).to_csv(path, index=False)
            data += [flag, str(path)]
        for rank in (1, 8):
            adapter, head = rates[task, rank]
            grid = folder / f"{task}-rank-{rank}.toml"
            grid.write_text(
                f"{template}\n[settings.learning_rates]\nadapter = {adapter}\nhead = {head}\n"
            )
            _grid(["-m", "bench.grid"], grid, runs, *data, "--task", f"test-{task}",
                  "--select", f"rank={rank}", *options)  # fmt: skip
        _keep(runs)


def updates(folder, options, data):
    """Full fine-tuning and a tuned head, and the former with its updates cut to some ranks."""
    runs = folder / "claims-updates.csv"
    for task in ("sst", "sts"):
        where = ["--task", task, "--data", str(data)]
        for mode in (["--select", "mode=full", "--save-weights"],
                     ["--select", "mode=head", "--lr", "auto"]):  # fmt: skip
            _grid(["-m", "bench.grid"], "updates.toml", runs, *where, *mode, *options)
    _keep(runs, [one for cell in find([runs])[0] for one in cut(cell, data)])


def cut(cell, data):
    """Rows of a cell as if it had a rank, to which its updates are cut, with their outcomes."""
    logits, predict = [], weights.predict

    def kept(*of, **options):
        logits.append(predict(*of, **options))
        return logits[-1]

    folder = data_folder(cell.row, cell.folder, data)
    examples = examples_of(cell.row, folder)
    base = model_of(cell.row, cell.folder, "train it again")
    weights.predict = kept
    try:
        found = weights.truncate(cell, base, RANKS, examples, folder,
                                  find_conditions("cpu").conditions, lambda _: None)  # fmt: skip
    finally:
        weights.predict = predict
    if found.problem:
        raise ValueError(found.problem)
    ((part),) = examples.parts.values()
    labels = np.asarray(part.dev.labels)
    for score, own in zip(found.scores, logits[1:], strict=False):
        row = cell.row | {
            "cell_id": digest([cell.row.cell_id, score.rank]), "rank": score.rank,
            "dev_score": score.dev.value, "dev_ci_low": score.dev.low,
            "dev_ci_high": score.dev.high,
        }  # fmt: skip
        yield row, outcome_of(np.asarray(own), labels, None)


def _others(task, folder):
    """Options for 2,000 training examples of a task, and all others to score."""
    if not (folder / f"{task}-dev.csv").is_file():
        write_examples(task, Path(), folder, dev=None)
    data = ["--data", f"{folder / task}-train.csv", "--validation", f"{folder / task}-dev.csv"]
    return [*data, "--task", f"claims-{task}"]


def _runs(folder, name):
    runs = folder / f"{name}.csv"
    if not runs.exists():
        copy_rows(DOCS / runs.name, runs)
    return runs


def _grid(start, grid, runs, *options):
    file = Path(__file__).parent / grid
    places = ["--grid", file, "--runs", runs, "--reports", runs.parent / "reports"]
    subprocess.run([sys.executable, *start, *map(str, places), *options], check=True, cwd=ROOT)


def _keep(runs, more=()):
    """Keep rows in docs/ with their outcomes, and others beside them."""
    rows = read_rows(runs)
    keep_outcomes(runs, rows)
    known = outcomes.read_outcomes(outcomes.outcomes_file(runs))
    known |= {outcomes.outcome_key(row, ""): outcome for row, outcome in more}
    kept = DOCS / runs.name
    kept.write_bytes(record(NAMES) + b"".join(map(encode, [*rows, *(row for row, _ in more)])))
    outcomes.write_outcomes(outcomes.outcomes_file(kept), known)


if __name__ == "__main__":
    main()
