"""Training of a cell again, on other examples or to get its weights; and what one left."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bench.common.errors import InputError, StoppedError, writing
from bench.common.files import below, read_file, write_atomically
from bench.common.messages import echo
from bench.launch.attempt import WORKER
from bench.launch.display import Display
from bench.launch.runner import WorkerEnd, run_worker, utc
from bench.launch.signals import Signals
from bench.machine.conditions import Target
from bench.machine.environment import worker_environment
from bench.plan import job as jobs
from bench.plan.job import Job
from bench.results.protocol import LONGEST_RESULT, RESULT, WEIGHTS, parse_result
from bench.results.store import cells_folder
from minbert.assets.cache import cache_folder
from minbert.data.tasks import TaskData, load_task
from minbert.data.tasks.prepared import Prepared, write
from minbert.files import is_file


def train_again(
    runs: Path,
    job: Job,
    name: str,
    *,
    target: Target,
    signals: Signals,
    data: TaskData | None = None,
    purpose: str = "trained again",
) -> Path:
    """Train a job's cell again, and return the folder with its results. If the job keeps its
    weights and the same training has ended there before, nothing runs. InputError if the training
    does not end ok. DiskFullError if the job or the examples can't be written. StoppedError if the
    user stops it.

    Args:
        name: of the folder among the cells of the CSV, such as `export-<cell_id>`; what it holds is
            replaced.
        target: the device, which the caller has a turn on.
        data: examples in place of the cell's: up to its `max_train`, and all of dev.
        purpose: shown while it runs, after the cell's name.
    """
    job = replace(job if data is None else _with_examples(job, data), repeat=1, attempt=1)
    folder = below(cells_folder(runs), name)
    if job.keep and is_file(folder / WEIGHTS) and orphaned_outcome(folder, job) is not None:
        return folder
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / jobs.FILE, job.to_json().encode())
    with Display(1) as display:
        display.start(f"{job.cell.name}, {purpose}")
        ended = run_worker(
            folder,
            [*WORKER, str(folder.resolve())],
            env=worker_environment(os.environ, target.conditions.threads, target.gpu),
            timeout_s=None,
            on_progress=display.progress,
            signals=signals,
        )
    if ended.status == "interrupted":
        echo("stopped; the same command trains again", err=True)
        raise StoppedError
    if ended.status != "ok":
        raise InputError(
            f"{job.cell.name}, {purpose}: the training ended {ended.status}: {ended.message}"
        )
    return folder


def orphaned_outcome(folder: Path, job: Job) -> WorkerEnd | None:
    """The outcome of a worker that finished after its parent had died; None without one. It counts
    only for an identical job, including the version of the code; it may have kept weights that need
    not be kept. `wall_s` is None, since nobody measured it; the start and the end are those of the
    files."""
    path = folder / RESULT
    try:
        if Job.read(folder) not in (job, replace(job, keep=True)):
            return None
        result = parse_result(read_file(path, LONGEST_RESULT).decode())
        begun, ended = ((folder / name).stat().st_mtime for name in (jobs.FILE, RESULT))
    except (OSError, ValueError):
        return None
    if result["status"] != "ok":
        return None
    started_at, finished_at = (
        utc(datetime.fromtimestamp(int(moment), UTC)) for moment in (begun, max(begun, ended))
    )
    return WorkerEnd(
        status="ok", message="", wall_s=None, started_at=started_at, finished_at=finished_at,
        result=result,
    )  # fmt: skip


def _with_examples(job: Job, data: TaskData) -> Job:
    """A job on examples of its cell's task, which are written to the cache."""
    task, cell = data.task, job.cell
    prepared = Prepared.of(data)
    # of an embedded task, too: other dev examples than its own have no name
    source = write(cache_folder() / "data", prepared, data)
    loaded = load_task(task.name, source, max_train=cell.max_train)
    cell = replace(cell, data_digest=loaded.digest[:16], max_dev=None, folds=None, fold=None)
    return replace(job, cell=cell, data=str(source))
