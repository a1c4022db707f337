"""The cells that can be members of an ensemble, with their predictions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import InputError
from bench.common.files import open_tensors
from bench.plan.cell import MULTITASK
from bench.plan.columns import PART_SCORES, parse_parts
from bench.plan.rows import Row, current_rows
from bench.results.origins import folder_of
from bench.results.protocol import PREDICTIONS
from bench.results.store import read_rows
from minbert.data.tasks import find_task
from minbert.files import is_file

_NAMES: Final = ("logits", "labels", "held_logits", "held_labels")
_INDICES: Final = "held_indices"
_UNFIT: Final = "predictions and labels don't fit together"

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Member:
    """A cell that ended ok, with its arrays for one task by their names in its file: logits [N, C]
    and labels [N], on dev and (`held_…`) on the training examples that it held out, and the
    latter's indices if kept. `folder` is the cell's."""

    row: Row
    folder: Path
    arrays: Arrays

    @property
    def own_parameters(self) -> int:
        """Parameters that no other member shares: all after full fine-tuning, else those that
        trained while the encoder was frozen."""
        whole = self.row.params_trainable == self.row.params_total
        return int(self.row["params_total" if whole else "params_trainable"] or 0)


@dataclass(frozen=True)
class Pool:
    """The cells of one task that can be members, the labels [N] of the examples that all of them
    predicted, and the number of cells that were left out since they predicted others."""

    task: str
    metric: str
    members: Sequence[Member]
    labels: NDArray[Any]
    held_labels: NDArray[Any]
    left_out: int = 0

    def label_of(self, member: Member) -> str:
        """A member's name, followed by its task if that is `multitask`, and by its model if the
        members have several."""
        names, learned = [member.row.name], member.row.task
        if learned != self.task:
            names.append(learned)
        if len({other.row.model_digest for other in self.members}) > 1:
            names.append(member.row.model)
        return ", ".join(names)


def find(runs: Sequence[Path], asked: Collection[str] = ()) -> list[Pool]:
    """The cells in some CSVs that can be members, by task; a cell in several CSVs counts once.

    The pool for a part of task `multitask` has cells that learned it alone and cells that learned
    all parts together, as long as they predicted the same examples. Where they did not, the cells
    of the part alone are left out, or the others if the part was asked for and `multitask` was not.
    Tasks without cells are ignored; if none is asked for, it is the only one, or all parts.

    InputError if there is no such cell, if there are several tasks and none was asked for, if cells
    have different data, or if predictions are missing or damaged.
    """
    files = ", ".join(map(str, runs))
    rows = [
        (path, row)
        for path in runs
        for row in current_rows(read_rows(path)).values()
        if row.has_score and not row.is_trial
    ]
    if any(row.folds is not None for _, row in rows):
        raise InputError(
            f"{files}: cells of a cross-validation, each of which predicts one fold, can't be "
            "members; name CSVs without folds"
        )
    tasks = _tasks(files, [row for _, row in rows], asked)
    prefer_multitask = not asked or MULTITASK in asked
    return [_pool(files, task, rows, prefer_multitask=prefer_multitask) for task in tasks]


def _learned(row: Row) -> Collection[str]:
    """The tasks that a row's cell learned; for `multitask` its parts."""
    if row.task != MULTITASK:
        return (row.task,)
    try:
        return parse_parts(row.task_rates or "")
    except ValueError:
        return ()


def _tasks(files: str, rows: Sequence[Row], asked: Collection[str]) -> list[str]:
    """The tasks to choose ensembles for, parts of `multitask` in their order."""
    learned = {task for row in rows for task in _learned(row)}
    tasks = set(asked or learned) & learned
    if MULTITASK in asked:
        tasks |= learned & PART_SCORES.keys()
    if not asked and len(tasks) > 1 and not tasks <= PART_SCORES.keys():
        names = sorted({row.task for row in rows})
        raise InputError(f"{files}: holds tasks {', '.join(names)}; choose with --task")
    if not tasks:
        of_task = f" of task {', '.join(asked)}" if asked else ""
        raise InputError(f"{files}: no cell{of_task} ended ok with a score; run a grid first")
    return [task for task in dict.fromkeys([*PART_SCORES, *asked, *sorted(tasks)]) if task in tasks]


def _pool(
    files: str, task: str, rows: Sequence[tuple[Path, Row]], *, prefer_multitask: bool
) -> Pool:
    """The pool of one task; with `prefer_multitask`, cells of the part alone are left out if
    they predicted other examples than those that learned all parts."""
    cells: dict[str, tuple[Row, Path]] = {}  # by id, the first that still has its predictions
    for path, row in rows:
        known = cells.get(row.cell_id)
        if task in _learned(row) and not (known and is_file(known[1] / PREDICTIONS)):
            cells[row.cell_id] = row, folder_of(path, row)
    usable = [(row, folder) for row, folder in cells.values() if row.held_out]
    if not usable:
        first, _ = next(iter(cells.values()))
        raise InputError(
            f"{files}: no cell of {first['task']} held training examples out, by which members are "
            "chosen; run a grid with held_out = 0.1 in its settings"
        )
    kinds = {row.task for row, _ in usable}
    kind = MULTITASK if MULTITASK in kinds and (prefer_multitask or len(kinds) == 1) else task
    preferred = [(row, folder) for row, folder in usable if row.task == kind]
    for name, noun in (("data_digest", "examples"), ("held_out", "shares held out")):
        if len({row[name] for row, _ in preferred}) > 1:
            raise InputError(f"{files}: cells of {kind} have different {noun}; keep them apart")
    members: list[Member] = []
    examples: Arrays = {}
    for row, folder in (*preferred, *(cell for cell in usable if cell not in preferred)):
        arrays = _read(row, folder, task)
        # without indices in both, by labels alone
        both = {"labels", "held_labels", _INDICES} & examples.keys() & arrays.keys()
        if all(np.array_equal(examples[name], arrays[name]) for name in both):
            members.append(Member(row, folder, arrays))
            # without indices, one would go with several that differ
            examples = examples if _INDICES in examples else arrays
        elif row.task == kind:
            raise InputError(
                f"{folder / PREDICTIONS}: was made on other examples than those of the other "
                "cells; models of another vocabulary or max_length hold different examples out, "
                "and can't be together"
            )
    return Pool(
        task=task,
        metric=find_task(task).metric if kind == MULTITASK else str(members[0].row.dev_metric),
        members=members,
        labels=members[0].arrays["labels"],
        held_labels=members[0].arrays["held_labels"],
        left_out=len(usable) - len(members),
    )


def _read(row: Row, folder: Path, task: str) -> Arrays:
    from safetensors import SafetensorError

    path, prefix = folder / PREDICTIONS, f"{task}." if row.task == MULTITASK else ""
    again = "run the cell again with --rerun ok"
    try:
        with open_tensors(path) as stored:
            file = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise InputError(f"{path}: is gone; {again}, or take its row out") from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: can't be read ({error})") from error
    for name in _NAMES:
        if f"{prefix}{name}" not in file:
            raise InputError(f"{path}: has no {prefix}{name}; {again}")
    names = [name for name in (*_NAMES, _INDICES) if f"{prefix}{name}" in file]
    arrays = {name: file[f"{prefix}{name}"] for name in names}
    if not all(array.ndim == (2 if "logits" in name else 1) for name, array in arrays.items()):
        raise InputError(f"{path}: {_UNFIT}")
    dev, *others_of_dev = (len(arrays[name]) for name in names if not name.startswith("held_"))
    held_out, *others_held_out = (len(arrays[name]) for name in names if name.startswith("held_"))
    classes = [arrays[name].shape[1] for name in ("logits", "held_logits")]
    if {*others_of_dev} != {dev} or {*others_held_out} != {held_out} or 0 in classes:
        raise InputError(f"{path}: {_UNFIT}")
    if not (dev and held_out):
        raise InputError(f"{path}: holds predictions of no examples")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise InputError(f"{path}: holds predictions that are not finite; {again}")
    indices = arrays.get(_INDICES)
    if indices is not None and not (
        indices.dtype == np.int64 and indices[0] >= 0 and (np.diff(indices) > 0).all()
    ):
        raise InputError(f"{path}: {prefix}{_INDICES} are no indices; {again}")
    return arrays
