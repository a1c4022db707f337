"""The folder, checkpoint and examples of a cell that has run, if they are still unchanged."""

from pathlib import Path

from bench.common.errors import InputError
from bench.plan.cell import Cell, Row
from bench.plan.columns import int_of, row_key, text_of
from bench.plan.job import Job
from bench.plan.models import Model, find_model
from bench.results.store import cell_folder
from minbert.data.tasks import Data, load_data
from minbert.files import is_folder


def folder_of(runs: Path, row: Row) -> Path:
    """The folder of a row's attempt, next to the CSV that has the row.

    Raises:
        InputError: if the row's ids could lead out of the folder of all cells.
    """
    try:
        return cell_folder(runs, Cell.from_columns(row).name, *row_key(row))
    except ValueError as error:
        raise InputError(f"{runs}: {error}") from error


def examples_of(row: Row, data: Path | None) -> Data:
    """The examples that a row's cell was trained and scored on.

    Args:
        data: the folder of the task's files; None for an embedded task.

    Raises:
        InputError: if they can't be loaded, or have changed.
    """
    caps = {n: None if row[n] is None else int_of(row, n) for n in ("max_train", "max_dev")}
    examples = load_data(text_of(row, "task"), data, **caps)
    if not examples.digest.startswith(text_of(row, "data_digest")):
        raise InputError(
            f"the examples of {row['task']} are not those that {Cell.from_columns(row).name} was "
            "trained on; name the folder that the grid had with --data"
        )
    return examples


def model_of(row: Row, folder: Path, otherwise: str) -> Model:
    """The checkpoint that a row's cell was trained from, by the path in its job or by its name.

    Args:
        folder: the cell's folder.
        otherwise: what the user can do instead of restoring the checkpoint.

    Raises:
        InputError: if it is gone, or has changed.
    """
    name, cell = text_of(row, "model"), Cell.from_columns(row).name
    try:
        path = Job.read(folder).checkpoint
    except InputError:
        path = None
    if path is not None and not is_folder(path):
        if Path(path).name == name:
            raise InputError(
                f"{path}: the checkpoint of {cell} is gone; put it back, or {otherwise}"
            )
        path = None
    model = find_model(path or name, "pretrained", "auto")
    if model.digest != row["model_digest"]:
        raise InputError(
            f"{model.checkpoint}: is another checkpoint than the one that {cell} was trained from; "
            f"put that back, or {otherwise}"
        )
    return model
