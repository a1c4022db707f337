"""The cells that can be members of an ensemble, with their predictions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import InputError
from bench.plan.cell import CANDIDATE, MULTITASK
from bench.plan.columns import PART_SCORES
from bench.plan.parts import from_text
from bench.plan.rows import Row, standing
from bench.results.origins import folder_of
from bench.results.protocol import PREDICTIONS
from bench.results.store import read_rows
from minbert.data.tasks import find_task
from minbert.files import is_file

_LOGITS: Final = ("logits", "held_logits")
_LABELS: Final = ("labels", "held_labels")
_INDICES: Final = "held_indices"

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Member:
    """A cell that ended ok, with its logits [N, C] for one task, on dev and on the training
    examples that it held out. `folder` is the cell's."""

    row: Row
    logits: NDArray[np.float32]
    held_logits: NDArray[np.float32]
    folder: Path

    @property
    def name(self) -> str:
        """A short name, such as `lora-r8-all-lin-only-bf16-s0`."""
        return self.row.name

    @property
    def own_parameters(self) -> int:
        """Parameters that no other member shares: all after full fine-tuning, else those that
        trained while the encoder was frozen."""
        whole = self.row.params_trainable == self.row.params_total
        return int(self.row["params_total" if whole else "params_trainable"] or 0)

    @property
    def shared_parameters(self) -> int:
        """Parameters of the frozen encoder, which members with the same model share."""
        return int(self.row.params_total or 0) - self.own_parameters


@dataclass(frozen=True)
class Candidates:
    """The cells of one task that can be members, and the labels [N] of the examples that all of
    them predicted.

    `left_out` counts cells that predicted other examples and were left out for that.
    """

    task: str
    metric: str
    members: Sequence[Member]
    labels: NDArray[Any]
    held_labels: NDArray[Any]
    left_out: int = 0

    def name_of(self, member: Member) -> str:
        """A member's name, followed by its task if that is `multitask`, and by its model if the
        members have several."""
        names, learned = [member.name], member.row.task
        if learned != self.task:
            names.append(learned)
        if len({other.row.model_digest for other in self.members}) > 1:
            names.append(member.row.model)
        return ", ".join(names)


@dataclass(frozen=True)
class _Source:
    """A cell's row and the folder with its files."""

    row: Row
    folder: Path

    @property
    def task(self) -> str:
        return self.row.task

    @property
    def predictions(self) -> Path:
        return self.folder / PREDICTIONS


def find(runs: Sequence[Path], asked: Collection[str] = ()) -> list[Candidates]:
    """The cells in some CSVs that can be members, by task; a cell in several CSVs counts once.

    Candidates for a part of task `multitask` are cells that learned it alone and cells that learned
    all parts together, as long as they predicted the same examples. Where they did not, the cells
    of the part alone are left out, or the others if the part was asked for and `multitask` was not.

    Args:
        asked: tasks; those without cells are ignored. None: the only task, or all parts of
            `multitask`.

    Raises:
        InputError: if there is no such cell, if there are several tasks and none was asked for, if
            cells have different data, or if predictions are missing or damaged.
    """
    files = ", ".join(map(str, runs))
    rows = [
        (path, row)
        for path in runs
        for row in standing(read_rows(path)).values()
        if row.has_score and row.learning_rate_source != CANDIDATE
    ]
    tasks = _tasks(files, [row for _, row in rows], asked)
    prefer_multitask = not asked or MULTITASK in asked
    return [_candidates(files, task, rows, prefer_multitask=prefer_multitask) for task in tasks]


def _learned(row: Row) -> Collection[str]:
    """The tasks that a row's cell learned; for `multitask` its parts."""
    if row.task != MULTITASK:
        return (row.task,)
    try:
        return from_text(row.task_rates or "")
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
    in_order = dict.fromkeys([*PART_SCORES, *asked, *sorted(tasks)])
    return [task for task in in_order if task in tasks]


def _candidates(
    files: str, task: str, rows: Sequence[tuple[Path, Row]], *, prefer_multitask: bool
) -> Candidates:
    """The candidates for one task.

    Args:
        prefer_multitask: whether cells of the part alone are left out, if they predicted other
            examples than those that learned all parts.
    """
    sources: dict[str, _Source] = {}  # by cell id, the first that still has its predictions
    for path, row in rows:
        cell_id = row.cell_id
        if task in _learned(row) and not (
            cell_id in sources and is_file(sources[cell_id].predictions)
        ):
            sources[cell_id] = _Source(row, folder_of(path, row))
    held = [source for source in sources.values() if source.row.held_out]
    if not held:
        first = next(iter(sources.values()))
        raise InputError(
            f"{files}: no cell of {first.task} held training examples out, by which members are "
            "chosen; run a grid with held_out = 0.1 in its settings"
        )
    kinds = {source.task for source in held}
    kind = MULTITASK if MULTITASK in kinds and (prefer_multitask or len(kinds) == 1) else task
    preferred = [source for source in held if source.task == kind]
    for name, noun in (("data_digest", "examples"), ("held_out", "shares held out")):
        if len({source.row[name] for source in preferred}) > 1:
            raise InputError(f"{files}: cells of {kind} have different {noun}; keep them apart")
    arrays = [_read(source, task) for source in preferred]
    # Compare with a file that has indices, if any: one without fits several that differ.
    known = next((i for i, tensors in enumerate(arrays) if _INDICES in tensors), 0)
    examples = arrays[known]
    for source, tensors in zip(preferred, arrays, strict=True):
        if not _same_examples(examples, tensors):
            raise InputError(
                f"{source.predictions}: was made on other examples than those of the other cells; "
                f"{_why_others(source.row, preferred[known].row)}"
            )
    members = [_member(source, own) for source, own in zip(preferred, arrays, strict=True)]
    others = [source for source in held if source.task != kind]
    for source in others:
        tensors = _read(source, task)
        if _same_examples(examples, tensors):
            members.append(_member(source, tensors))
            examples = examples if _INDICES in examples else tensors
    return Candidates(
        task=task,
        metric=find_task(task).metric if kind == MULTITASK else str(preferred[0].row.dev_metric),
        members=members,
        labels=arrays[0]["labels"],
        held_labels=arrays[0]["held_labels"],
        left_out=len(held) - len(members),
    )


def _member(source: _Source, tensors: Arrays) -> Member:
    return Member(source.row, tensors["logits"], tensors["held_logits"], source.folder)


def _why_others(row: Row, other: Row) -> str:
    """The reason why two cells with the same data held out different examples, which are drawn
    from the texts' tokens."""
    lengths = row.max_length, other.max_length
    if lengths[0] != lengths[1]:
        return (
            f"with max_length {lengths[0]} and {lengths[1]} different ones are held out; keep them "
            "apart"
        )
    return "models of different vocabularies hold different examples out, and can't be together"


def _same_examples(one: Arrays, other: Arrays) -> bool:
    """Whether two files are of the same examples; without indices in both, by labels alone."""
    names = [*_LABELS, *([_INDICES] if _INDICES in one and _INDICES in other else [])]
    return all(np.array_equal(one[name], other[name]) for name in names)


def _read(source: _Source, task: str) -> Arrays:
    """A cell's logits, labels and, if the file has them, indices for a task, checked."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path, prefix = source.predictions, f"{task}." if source.task == MULTITASK else ""
    try:
        file = load_file(path)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: is gone; run the cell again with --rerun ok, or take its row out"
        ) from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: can't be read ({error})") from error
    for name in (*_LOGITS, *_LABELS):
        if f"{prefix}{name}" not in file:
            raise InputError(f"{path}: has no {prefix}{name}; run the cell again with --rerun ok")
    names = (*_LOGITS, *_LABELS, _INDICES)
    tensors = {name: file[f"{prefix}{name}"] for name in names if f"{prefix}{name}" in file}
    shapes = all(
        array.ndim == 2 and array.shape[1] if name in _LOGITS else array.ndim == 1
        for name, array in tensors.items()
    )
    dev = {len(tensors[name]) for name in ("logits", "labels")} if shapes else set()
    held = {len(tensors[name]) for name in tensors if name.startswith("held_")} if shapes else set()
    if len(dev) != 1 or len(held) != 1:
        raise InputError(f"{path}: predictions and labels don't fit together")
    if 0 in dev | held:
        raise InputError(f"{path}: holds predictions of no examples")
    if not all(np.isfinite(array).all() for array in tensors.values()):
        raise InputError(
            f"{path}: holds predictions that are not finite; run the cell again with --rerun ok"
        )
    if _INDICES in tensors and not _are_indices(tensors[_INDICES]):
        raise InputError(
            f"{path}: {prefix}{_INDICES} are no indices; run the cell again with --rerun ok"
        )
    return tensors


def _are_indices(array: NDArray[Any]) -> bool:
    """Whether numbers [N] can be indices of examples: int64, ascending, each once.

    They are only compared, so the number of training examples, which no file has, is not needed.
    """
    ascending = (array[1:] > array[:-1]).all()
    return bool(array.dtype == np.int64 and array[0] >= 0 and ascending)
