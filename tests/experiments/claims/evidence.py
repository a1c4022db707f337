"""The rows of docs/claims.toml: trained in a folder by commands that continue where they stopped,
from the rows in docs/ if the folder is new, and kept there with an outcome for each example.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

from bench.machine.conditions import find_conditions
from bench.plan.cell import digest
from bench.plan.columns import NAMES
from bench.results import outcomes
from bench.results.origins import data_folder, examples_of, model_of
from bench.results.predictions import keep_outcomes, outcome_of
from bench.results.rowfile import encode, read_rows, record
from bench.stats.racing import ROUNDS
from bench.studies.updates import truncate
from bench.studies.updates.cells import find
from tests.experiments.pages import DOCS, ROOT
from tests.experiments.rates import copy_rows, write_examples

RANKS = (1, 2, 4, 8, 16, 32)
TASKS = ("movies", "amazon", "nyt", "tweets")


def scores(folder, options):
    """All settings in the five rounds of a race, and LoRA with another seed in each."""
    runs = _runs(folder, "claims-scores")
    for task in TASKS:
        for first, select in ((0, []), (ROUNDS, ["--select", "mode=lora"])):
            seeds = ", ".join(map(str, range(first, first + ROUNDS)))
            code = f"from tests.experiments.races.replay import every_round; every_round({seeds})"
            _grid(["-c", code], "scores", runs, "--race", "--lr", "auto", "--task", task, *select,
                  *options)  # fmt: skip
            _keep(runs)


def costs(folder, options, name):
    """All settings in turn with each of eight seeds, scored on all other examples."""
    runs = _runs(folder, name)
    _grid(["-m", "bench.grid"], "costs", runs, *_others("movies", folder), *options)
    _keep(runs)


def ranks(folder, options):
    runs = _runs(folder, "claims-ranks")
    for task in ("movies", "nyt"):
        _grid(["-m", "bench.grid"], "ranks", runs, *_others(task, folder), *options)
        _keep(runs)


def updates(folder, options, data):
    """Full fine-tuning and a tuned head, and the former with its updates cut to some ranks."""
    runs = folder / "claims-updates.csv"
    for task in ("sst", "sts"):
        where = ["--task", task, "--data", str(data)]
        for mode in (["--select", "mode=full", "--save-weights"],
                     ["--select", "mode=head", "--lr", "auto"]):  # fmt: skip
            _grid(["-m", "bench.grid"], "updates", runs, *where, *mode, *options)
    _keep(runs, [one for cell in find([runs])[0] for one in cut(cell, data)])


def cut(cell, data):
    """Rows of a cell as if it had a rank, to which its updates are cut, with their outcomes."""
    logits, predict = [], truncate.predict

    def kept(*of, **options):
        logits.append(predict(*of, **options))
        return logits[-1]

    folder = data_folder(cell.row, cell.folder, data)
    examples = examples_of(cell.row, folder)
    base = model_of(cell.row, cell.folder, "train it again")
    truncate.predict = kept
    try:
        found = truncate.truncate(cell, base, RANKS, examples, folder,
                                  find_conditions("cpu").conditions, lambda _: None)  # fmt: skip
    finally:
        truncate.predict = predict
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
    file = Path(__file__).with_name(f"{grid}.toml")
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
