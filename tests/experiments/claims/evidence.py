"""The rows of docs/claims.toml: trained in a folder by commands that continue where they stopped,
from the rows in docs/ if the folder is new, and kept there with an outcome for each example.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from bench.machine.conditions import find_conditions
from bench.plan.cell import digest
from bench.plan.columns import NAMES
from bench.plan.rows import Row
from bench.results.origins import data_folder, examples_of, model_of
from bench.results.outcomes import (
    Outcome,
    outcome_key,
    outcomes_file,
    read_outcomes,
    write_outcomes,
)
from bench.results.predictions import keep_outcomes, outcome_of
from bench.results.rowfile import encode, read_rows, record
from bench.stats.racing import ROUNDS
from bench.studies.updates import truncate
from bench.studies.updates.cells import KeptCell, find
from minbert.data.tasks import find_task, load_task, load_test
from tests.experiments.claims import ROOT
from tests.experiments.races.replay import copy_rows
from tests.experiments.rates import write_examples

RANKS: Final = (1, 2, 4, 8, 16, 32)
_HERE: Final = Path(__file__).parent
TASKS: Final = ("movies", "amazon", "nyt", "tweets")


def scores(folder: Path, options: Sequence[str]) -> None:
    """All settings in the five rounds of a race, and LoRA with another seed in each."""
    runs = _runs(folder, "claims-scores")
    for task in TASKS:
        for first, select in ((0, []), (ROUNDS, ["--select", "mode=lora"])):
            seeds = ", ".join(map(str, range(first, first + ROUNDS)))
            code = f"from tests.experiments.races.replay import every_round; every_round({seeds})"
            _grid(["-c", code], "scores.toml", runs, "--race", "--lr", "auto", "--task", task,
                  *select, *options)  # fmt: skip
            _keep(runs)


def costs(folder: Path, options: Sequence[str], *, name: str = "claims-costs") -> None:
    """All settings in turn with each of eight seeds, scored on all other examples."""
    runs = _runs(folder, name)
    _grid(["-m", "bench.grid"], "costs.toml", runs, *_others("movies", folder, "claims"), *options)
    _keep(runs)


def ranks(folder: Path, options: Sequence[str]) -> None:
    runs = _runs(folder, "claims-ranks")
    for task in ("movies", "nyt"):
        _grid(["-m", "bench.grid"], "ranks.toml", runs, *_others(task, folder, "claims"), *options)
        _keep(runs)


def test_splits(folder: Path, options: Sequence[str]) -> None:
    """Two ranks, trained on all training examples at the rates that `scores` found, and scored on
    the test examples of the embedded tasks, which no other experiment reads."""
    runs = _runs(folder, "claims-test")
    rates = {
        (row.task, row.rank): (row.learning_rate, row.learning_rate_head)
        for row in read_rows(ROOT / "docs" / "claims-scores.csv")
        if row.mode == "lora" and row.race
    }
    for task in TASKS:
        parts = {"train": load_task(task).train, "test": load_test(task)}
        train, test = (folder / f"{task}-{part}-split.csv" for part in parts)
        classes = find_task(task).classes
        for path, part in zip((train, test), parts.values(), strict=True):
            labels = [classes[int(label)] for label in part.labels]
            pd.DataFrame({"text": part.columns[0], "label": labels}).to_csv(path, index=False)
        for rank in (1, 8):
            adapter, head = rates[task, rank]
            grid = folder / f"{task}-rank-{rank}.toml"
            grid.write_text(
                f"{(_HERE / 'test.toml').read_text()}\n"
                f"[settings.learning_rates]\nadapter = {adapter}\nhead = {head}\n"
            )
            data = ["--data", str(train), "--validation", str(test), "--task", f"test-{task}"]
            select = ["--select", f"rank={rank}"]
            _grid(["-m", "bench.grid"], str(grid), runs, *data, *select, *options)
        _keep(runs)


def updates(folder: Path, options: Sequence[str], data: Path) -> None:
    """Full fine-tuning and a tuned head, and the former with its updates cut to some ranks."""
    runs = folder / "claims-updates.csv"
    for task in ("sst", "sts"):
        where = ["--task", task, "--data", str(data)]
        for mode in (["--select", "mode=full", "--save-weights"],
                     ["--select", "mode=head", "--lr", "auto"]):  # fmt: skip
            _grid(["-m", "bench.grid"], "updates.toml", runs, *where, *mode, *options)
    _keep(runs, [one for cell in find([runs])[0] for one in cut(cell, data)])


def cut(cell: KeptCell, data: Path) -> Iterator[tuple[Row, Outcome]]:
    """Rows of a cell as if it had a rank, to which its updates are cut, with their outcomes."""
    logits: list[Any] = []
    predict = truncate.predict

    def kept(*of: Any, **options: Any) -> Any:
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
        assert score.dev is not None
        row = cell.row | {
            "cell_id": digest([cell.row.cell_id, score.rank]), "rank": score.rank,
            "dev_score": score.dev.value, "dev_ci_low": score.dev.low,
            "dev_ci_high": score.dev.high,
        }  # fmt: skip
        yield row, outcome_of(np.asarray(own), labels, None)


def _others(task: str, folder: Path, prefix: str) -> list[str]:
    """Options for 2,000 training examples of a task, and all others to score."""
    if not (folder / f"{task}-dev.csv").is_file():
        write_examples(task, Path(), folder, dev=None)
    data = ["--data", f"{folder / task}-train.csv", "--validation", f"{folder / task}-dev.csv"]
    return [*data, "--task", f"{prefix}-{task}"]


def _runs(folder: Path, name: str) -> Path:
    runs = folder / f"{name}.csv"
    if not runs.exists():
        copy_rows(ROOT / "docs" / runs.name, runs)
    return runs


def _grid(start: Sequence[str], grid: str, runs: Path, *options: str) -> None:
    file, reports = str(_HERE / grid), str(runs.parent / "reports")
    places = ["--grid", file, "--runs", str(runs), "--reports", reports]
    subprocess.run([sys.executable, *start, *places, *options], check=True, cwd=ROOT)


def _keep(runs: Path, more: Sequence[tuple[Row, Outcome]] = ()) -> None:
    """Keep rows in docs/ with their outcomes, and others beside them."""
    rows = read_rows(runs)
    keep_outcomes(runs, rows)
    outcomes = read_outcomes(outcomes_file(runs))
    outcomes |= {outcome_key(row, ""): outcome for row, outcome in more}
    kept = ROOT / "docs" / runs.name
    kept.write_bytes(record(NAMES) + b"".join(map(encode, [*rows, *(row for row, _ in more)])))
    write_outcomes(outcomes_file(kept), outcomes)


PARTS: Final[dict[str, Callable[..., None]]] = {
    "scores": scores, "costs": costs, "ranks": ranks, "test": test_splits, "updates": updates,
}  # fmt: skip
