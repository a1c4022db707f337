"""The score of the chosen setting on test examples, measured once: `bench.report --final`.

The recommended setting, or the best by dev score where none is, is trained again, on the same
training examples with the same seed (of folds, on all examples), and scored on the test examples,
which nothing else reads. The score is kept with the facts on the data, and is not measured a second
time.
"""

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bench.analysis.recommendation import recommended_from
from bench.analysis.setting import Setting
from bench.common.command import BAD_INPUT
from bench.common.errors import InputError
from bench.common.messages import echo
from bench.common.progress import note_to_stderr
from bench.examples.reading import read_test
from bench.launch.again import train_again
from bench.launch.locks import Locks, device_locks
from bench.launch.runner import utc
from bench.launch.signals import Signals
from bench.machine.conditions import Target, find_conditions
from bench.plan.dataset import DataSpec
from bench.plan.job import Job
from bench.plan.rows import Row
from bench.results.facts import FinalScore, facts_of, read_facts, update_facts
from bench.results.origins import data_folder, folder_of, model_of
from bench.results.outcomes import Outcome
from bench.results.predictions import read_folder
from bench.results.rescoring import Results
from bench.results.scores import every_score
from minbert.data.tasks import TASKS, Examples, Folds, TaskData, find_task, load_task, load_test
from minbert.data.tasks.prepared import read_prepared


def find_final(results: Results, test_file: str | None = None) -> FinalScore:
    """The test score of the setting that is recommended from the report's first group or, where
    none is, of the best by dev score, measured now unless these test examples were scored before.
    InputError if no setting has a score, or there are no test examples, or the data, the model or
    the cell's folder are gone. StoppedError if the user stops it. Rows are scored by the metric
    that decides; without a test file, the examples are those that the grid was given."""
    [runs], (setting, metric) = results.runs, _choose(results)
    row = min(setting.ok, key=lambda row: (row.seed, row.repeat, row.fold or 0))
    folder = folder_of(runs, row)
    try:
        job = Job.read(folder)
        source = data_folder(row, folder, None if job.data is None else Path(job.data))
        test, name = _test_examples(row, source, test_file)
    except BAD_INPUT as error:
        known = read_facts(runs).get(row.data_digest)
        if known is not None and known.final is not None and test_file is None:
            return known.final
        raise InputError(f"--final: {error}") from error
    test_digest = TaskData(find_task(row.task, source), test, test.taken([])).digest[:16]
    if (scored := _scored(runs, test_digest)) is not None:
        return scored
    model_of(row, folder, "run its cell again")
    data = load_task(row.task, source)
    target = find_conditions(row.device)
    with (
        Signals() as signals,
        Locks(device_locks(), signals) as devices,
        devices.using(target.device_name, partial(echo, err=True)),
        signals.raising(),
    ):
        if (scored := _scored(runs, test_digest)) is not None:  # while it waited
            return scored
        outcome = _run(runs, job, data, test, target, signals)
    final = FinalScore(
        setting=setting.label,
        cell_id=row.cell_id,
        seed=row.seed,
        metric=metric,
        dev=setting.mean("dev_score") or 0.0,
        test=name,
        digest=test_digest,
        examples=len(test),
        scores=every_score(facts_of(data).problem, outcome),
        at=utc(datetime.now(UTC)),
    )
    new = {"final": final}
    update_facts(runs, row.data_digest, lambda old: (old or facts_of(data)).model_copy(update=new))
    return final


def _scored(runs: Path, test_digest: str) -> FinalScore | None:
    known = (facts.final for facts in read_facts(runs).values())
    return next((final for final in known if final and final.digest == test_digest), None)


def _choose(results: Results) -> tuple[Setting, str]:
    recommended = recommended_from(results.rows, results.planned, results.values_of)
    group = None if recommended is None else recommended.candidates.group
    chosen = None if recommended is None else recommended.setting
    if group is None or chosen is None or not chosen.learned:
        about = "" if group is None else f" for {group.shared('model')} on {group.shared('task')}"
        raise InputError(
            f"--final: no setting{about}, the first group of the report, is shown to have learned; "
            "train for longer"
        )
    return chosen, group.metric


def _test_examples(row: Row, source: Path | None, test_file: str | None) -> tuple[Examples, str]:
    if source is None or row.task in TASKS:
        if test_file is not None:
            raise InputError(f"--test is for data of your own, and {row.task} is not")
        return load_test(row.task), f"the test split of {row.task}"
    spec = DataSpec.model_validate(read_prepared(source).spec)
    if test_file is not None:
        spec = spec.model_copy(update={"test": test_file})
    test, notes = read_test(spec)
    note_to_stderr(*notes)
    return test, Path(spec.test).name if spec.test else "the test split"


def _run(
    runs: Path, job: Job, data: TaskData, test: Examples, target: Target, signals: Signals
) -> Outcome:
    cell = job.cell
    train = data.train if cell.folds is None else Folds(data, cell.folds).examples
    folder = train_again(
        runs,
        replace(job, keep=False),
        f"final-{cell.cell_id}",
        target=target,
        signals=signals,
        data=TaskData(data.task, train, test),
        purpose="scored on test examples",
    )
    outcome = (read_folder(folder, data.task.metric) or {}).get("")
    if outcome is None:
        raise InputError(f"--final: {folder} has no predictions that can be read")
    return outcome
