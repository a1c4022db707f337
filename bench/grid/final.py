"""The score of the chosen setting on test examples, measured once: `bench.report --final`.

The setting with the best dev score is trained again, on the same training examples with the same
seed (of folds, on all examples), and scored on the test examples, which nothing else reads. The
score is kept with the facts on the data, and is not measured a second time.
"""

import os
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.analysis.groups import group_key, groups
from bench.analysis.setting import Setting
from bench.analysis.verdicts import verdict
from bench.common.errors import InputError, StoppedError
from bench.common.files import write_atomically
from bench.examples.reading import read_test
from bench.forecast.client import turn_on
from bench.grid.display import Display
from bench.launch.runner import run_worker
from bench.launch.signals import Signals
from bench.machine.conditions import find_conditions
from bench.machine.environment import worker_environment
from bench.plan import job as jobs
from bench.plan.dataset import DataSpec
from bench.plan.job import Job
from bench.plan.metrics import metrics_for
from bench.plan.rows import Row
from bench.report.changes import hub_first
from bench.results.facts import DataFacts, FinalScore, facts_of, keep_facts, read_facts
from bench.results.origins import data_folder, folder_of, model_of
from bench.results.predictions import PredictionsOf, read_folder, values_from
from bench.results.scores import numbers, score_of
from bench.results.store import cells_folder, read_plan
from minbert.assets.cache import cache_folder
from minbert.data.tasks import TASKS, Examples, Folds, TaskData, load_task, load_test
from minbert.data.tasks.prepared import Prepared, read_prepared, write

_OTHERWISE: Final = "run its cell again"
_WORKER: Final = (sys.executable, "-m", "bench.worker")


@dataclass(frozen=True)
class _Chosen:
    """The setting to score, and a row of its training."""

    setting: Setting
    row: Row
    metric: str
    dev: float


def find_final(runs: Path, rows: list[Row], predictions_of: PredictionsOf) -> FinalScore:
    """The test score of the best setting of the first group of rows, measured now unless it is
    known.

    Args:
        rows: those of the CSV, scored by the metric that decides.

    Raises:
        InputError: if no setting has a score, or there are no test examples, or the data, the model
            or the cell's folder are gone.
        StoppedError: if the user stops it.
    """
    chosen = _choose(runs, rows, predictions_of)
    digest = chosen.row.data_digest
    known = read_facts(runs).get(digest)
    if known is not None and known.final is not None:
        return known.final
    folder = folder_of(runs, chosen.row)
    job = Job.read(folder)
    source = data_folder(chosen.row, folder, None if job.data is None else Path(job.data))
    data, test, name = _examples(chosen.row, source)
    model_of(chosen.row, folder, _OTHERWISE)
    scores = _measured(runs, job, data, test)
    final = FinalScore(
        setting=chosen.setting.label,
        cell_id=chosen.row.cell_id,
        seed=chosen.row.seed,
        metric=chosen.metric,
        dev=chosen.dev,
        test=name,
        examples=len(test),
        scores=scores,
        at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    )
    facts = known or facts_of(data)
    keep_facts(runs, [(digest, facts.model_copy(update={"final": final}))])
    return final


def _choose(runs: Path, rows: list[Row], predictions_of: PredictionsOf) -> _Chosen:
    planned = read_plan(runs)
    every = hub_first(
        groups(rows, planned, values_from(predictions_of)), {group_key(row) for row in planned}
    )
    best = verdict(every[0], "score") if every else None
    if best is None:
        raise InputError(f"--final: no setting in {runs} has a score that shows it has learned")
    row = min(best.winner.ok, key=lambda row: (row.seed, row.repeat, row.fold or 0))
    return _Chosen(best.winner, row, every[0].metric, best.value.value)


def _examples(row: Row, source: Path | None) -> tuple[TaskData, Examples, str]:
    """The training and dev examples of a row, its test examples, and their name."""
    if row.task in TASKS:
        test = load_test(row.task)
        return load_task(row.task, source), test, f"the test split of {row.task}"
    if source is None:
        raise InputError(f"--final: {row.task} has no test examples")
    spec = DataSpec.model_validate(read_prepared(source).spec)
    test, notes = read_test(spec)
    for note in notes:
        sys.stderr.write(f"note: {note}\n")
    name = Path(spec.test).name if spec.test else "the test split"
    return load_task(row.task, source), test, name


def _measured(
    runs: Path, job: Job, data: TaskData, test: Examples
) -> dict[str, tuple[float, float | None, float | None] | None]:
    """The scores of a cell, trained again, on test examples."""
    cell = job.cell
    train = data.train if cell.folds is None else Folds(data, cell.folds).examples
    final = TaskData(data.task, train, test)
    facts: DataFacts = facts_of(final)
    prepared = Prepared(data.task.name, facts.problem, data.task.classes, final.digest)
    folder = write(cache_folder() / "data", prepared, final)
    digest = TaskData(data.task, train.limited(cell.max_train), test).digest[:16]
    cell = replace(cell, data_digest=digest, max_dev=None, folds=None, fold=None)
    place = cells_folder(runs) / f"final-{cell.cell_id}"
    _run(place, replace(job, cell=cell, data=str(folder), repeat=1, attempt=1, keep=False))
    found = (read_folder(place, data.task.metric) or {}).get("")
    if found is None:
        raise InputError(f"--final: {place} has no predictions that can be read")
    scores: dict[str, tuple[float, float | None, float | None] | None] = {}
    for metric in metrics_for(facts.problem):
        try:
            score = score_of(metric, [numbers(metric, found)])
            scores[metric] = (score.value, score.low, score.high)
        except ValueError:
            scores[metric] = None
    return scores


def _run(folder: Path, job: Job) -> None:
    """Train and score a job's cell, in its turn on the device.

    Raises:
        InputError: if it does not end ok.
        StoppedError: if the user stops it.
    """
    target = find_conditions(job.device)
    argv = [*_WORKER, str(folder.resolve())]
    env = worker_environment(os.environ, target.conditions.threads, target.gpu)
    with Signals() as signals, turn_on(target.device_name, signals)():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / jobs.FILE, job.to_json().encode())
        with Display(1) as display:
            display.start(f"{job.cell.name}, scored on test examples")
            outcome = run_worker(
                folder, argv, env=env, timeout_s=None, on_progress=display.progress, signals=signals
            )
    if outcome.status == "interrupted":
        raise StoppedError
    if outcome.status != "ok":
        raise InputError(f"--final: the training ended {outcome.status}: {outcome.message}")
