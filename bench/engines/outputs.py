"""The outputs of a cell's model: its task, the parts of it, and a head for each.

A task without parts is one of a single part, whose name is "".
"""

from collections.abc import Sequence
from pathlib import Path

from bench.plan.cell import MULTITASK, Cell
from bench.plan.job import Job
from bench.plan.parts import SINGLE, from_text
from minbert.data.problems import TOKEN_CLASSIFICATION
from minbert.data.tasks import Task, find_task
from minbert.model.classifier import HeadConfig


def parts_of(cell: Cell) -> list[str]:
    """The parts of the cell's task that are in its data, in the task's order; [""] for a task
    without parts."""
    if cell.task != MULTITASK:
        return [""]
    rates = from_text(cell.task_rates or "")
    return [part for part in find_task(MULTITASK).parts if part in rates]


def task_of(job: Job) -> Task:
    return find_task(job.cell.task, folder_of(job))


def folder_of(job: Job) -> Path | None:
    return None if job.data is None else Path(job.data)


def heads_of(task: Task, parts: Sequence[str]) -> dict[str, HeadConfig]:
    """Outputs of a model: a logit for each class, or one for a number; in a part of a task, one for
    two classes as well."""
    if list(parts) == [""]:
        return {"": HeadConfig(task.num_outputs, by_token=task.problem is TOKEN_CLASSIFICATION)}
    classes = {part: len(find_task(part).classes) for part in parts}
    return {
        part: HeadConfig(count if count > 2 else 1, pairs=part not in SINGLE)
        for part, count in classes.items()
    }
