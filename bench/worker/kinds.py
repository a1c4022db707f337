"""Which kind of run a job gets."""

from pathlib import Path
from typing import Any

from bench.plan.job import Job
from bench.worker.multitask import MultitaskRun
from bench.worker.progress import Progress
from bench.worker.run import CellRun
from bench.worker.single import SingleRun
from minbert.data.tasks import find_task


def run_of(job: Job, folder: Path, progress: Progress) -> CellRun[Any]:
    """That of a job's task, with parts or without.

    Raises:
        InputError: for an unknown task.
    """
    if find_task(job.cell.task).parts:
        return MultitaskRun(job, folder, progress)
    return SingleRun(job, folder, progress)
