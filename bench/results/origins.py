"""What a cell that has run was made from: its folder, its checkpoint, its examples, if they are
still there and still the same."""

from pathlib import Path
from typing import Final

from bench.common.errors import InputError
from bench.plan.cell import Cell, Row
from bench.plan.columns import row_key
from bench.plan.job import Job
from bench.plan.models import Model, find_model
from bench.results.store import cell_folder
from minbert.data.tasks import Data, load_data
from minbert.files import is_folder

_CAPS: Final = ("max_train", "max_dev")


def folder_of(runs: Path, row: Row) -> Path:
    """The folder of a row's attempt, beside the CSV that has the row.

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
        data: the folder of the task's files; none for an embedded task.

    Raises:
        InputError: if they are not at hand, or others are.
    """
    caps = {name: None if row[name] is None else int(row[name] or 0) for name in _CAPS}
    found = load_data(str(row["task"]), data, **caps)
    if not found.digest.startswith(str(row["data_digest"])):
        raise InputError(
            f"the examples of {row['task']} are not those that {Cell.from_columns(row).name} was "
            "trained on; name the folder that the grid had with --data"
        )
    return found


def model_of(row: Row, folder: Path, otherwise: str) -> Model:
    """The checkpoint that a row's cell was trained from: where its job found it, or by its name.

    Args:
        folder: the cell's.
        otherwise: what else the user can do than put the checkpoint back.

    Raises:
        InputError: if it is gone, or another by now.
    """
    name, own = str(row["model"]), Cell.from_columns(row).name
    try:
        place = Job.read(folder).checkpoint
    except InputError:
        place = None
    there = place is not None and is_folder(place)
    if place is not None and not there and Path(place).name == name:
        raise InputError(f"{place}: the checkpoint of {own} is gone; put it back, or {otherwise}")
    found = find_model(place if place is not None and there else name, "pretrained", "auto")
    if found.digest != row["model_digest"]:
        raise InputError(
            f"{found.checkpoint}: is another checkpoint than the one that {own} was trained from; "
            f"put that back, or {otherwise}"
        )
    return found
