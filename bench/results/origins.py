"""The folder, checkpoint and examples of a cell that has run, if they are still unchanged."""

from contextlib import suppress
from pathlib import Path

from bench.common.errors import InputError
from bench.plan import examples
from bench.plan.job import Job
from bench.plan.models import Model, find_model
from bench.plan.rows import Row
from bench.results.store import cell_folder
from minbert.assets.cache import cache_folder
from minbert.data.tasks import TASKS, Data, Task, find_task
from minbert.data.tasks.prepared import is_prepared, read_prepared
from minbert.files import is_folder


def folder_of(runs: Path, row: Row) -> Path:
    """The folder of a row's attempt, next to the CSV that has the row. InputError as of `below`."""
    return cell_folder(runs, row.name, *row.row_key)


def data_folder(row: Row, folder: Path, data: Path | None) -> Path | None:
    """The folder of a row's examples: of a task that this project knows `data`, else that of the
    job in the cell's `folder`; None for an embedded task. InputError if the prepared examples are
    gone."""
    task = TASKS.get(row.task)
    if task is not None:
        return data if task.files else None
    named = None
    with suppress(InputError):  # results may come without their folders
        named = Job.read(folder).data
    prepared = _prepared_for(row) if named is None else Path(named)
    if not is_prepared(prepared):
        raise InputError(
            f"the examples of {row.task} are no longer in the cache; start the grid again, which "
            "reads them again"
        )
    return prepared


def _prepared_for(row: Row) -> Path | None:
    """The folder in the cache that has the examples of a row; None if there is none."""
    for folder in (cache_folder() / "data").glob("*"):
        with suppress(InputError):
            if read_prepared(folder).name == row.task:
                examples_of(row, folder)
                return folder
    return None


def task_of(row: Row, folder: Path) -> Task:
    """The task of a row, whose cell's folder is `folder`. InputError as of `data_folder`."""
    return TASKS.get(row.task) or find_task(row.task, data_folder(row, folder, None))


def examples_of(row: Row, data: Path | None) -> Data:
    """The examples that a row's cell was trained and scored on, from its `data_folder`. InputError
    if they can't be loaded, or have changed."""
    loaded = examples.examples_of(row, data)
    if not loaded.digest.startswith(row.data_digest):
        raise InputError(
            f"the examples of {row.task} are not those that {row.name} was "
            "trained on; name the folder that the grid had with --data"
        )
    return loaded


def model_of(row: Row, folder: Path, otherwise: str) -> Model:
    """The checkpoint that a row's cell was trained from, by the path in the job of its folder or by
    its name. InputError if it is gone, or has changed; `otherwise` is another remedy."""
    name, cell, path = row.model, row.name, None
    with suppress(InputError):
        path = Job.read(folder).checkpoint
    if path is not None and not is_folder(path):
        if Path(path).name == name:
            raise InputError(
                f"{path}: the checkpoint of {cell} is gone; put it back, or {otherwise}"
            )
        path = None
    model = find_model(path or name, "pretrained", "auto")
    if model.digest != row.model_digest:
        raise InputError(
            f"{model.checkpoint}: is another checkpoint than the one that {cell} was trained from; "
            f"put that back, or {otherwise}"
        )
    return model
