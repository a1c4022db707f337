"""The cells that can be members of an ensemble, with what they predicted."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import InputError
from bench.plan.cell import CANDIDATE, MULTITASK, Cell, Row
from bench.plan.columns import PART_SCORES, has_score, standing
from bench.plan.parts import from_text
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
class _Examples:
    """What tells the examples that a cell predicted: labels of dev and of what was held out.

    `held_indices` tells which training examples were held out; None in files from before these
    were kept.
    """

    labels: NDArray[Any]
    held_labels: NDArray[Any]
    held_indices: NDArray[np.int64] | None


@dataclass(frozen=True)
class Member:
    """A cell that ended ok, its logits [N, C] on dev and on what was held out of training.

    Of a cell that learned several tasks they are those of one. `folder` is the cell's.
    """

    row: Row
    logits: NDArray[np.float32]
    held_logits: NDArray[np.float32]
    folder: Path

    @property
    def name(self) -> str:
        """A short name, such as `lora-r8-all-lin-only-bf16-s0`."""
        return Cell.from_columns(self.row).name

    @property
    def own_parameters(self) -> int:
        """Parameters that no other member shares: all of a model that trained whole, else those
        that trained beside the frozen encoder."""
        whole = self.row["params_trainable"] == self.row["params_total"]
        return int(self.row["params_total" if whole else "params_trainable"] or 0)

    @property
    def shared_parameters(self) -> int:
        """Parameters of the frozen encoder, which members of one model have in common."""
        return int(self.row["params_total"] or 0) - self.own_parameters


@dataclass(frozen=True)
class Candidates:
    """Members of one task, with the labels [N] of the examples that all of them predicted.

    `left_out` counts the cells that predicted other examples than these and could do without.
    """

    task: str
    metric: str
    members: Sequence[Member]
    labels: NDArray[Any]
    held_labels: NDArray[Any]
    left_out: int = 0

    def name_of(self, member: Member) -> str:
        """A member's name, with what its cell learned if more than the task, and with its model
        where there are several."""
        learned = str(member.row["task"])
        models = {of.row["model_digest"] for of in self.members}
        told = [member.name]
        told += [learned] if learned != self.task else []
        told += [str(member.row["model"])] if len(models) > 1 else []
        return ", ".join(told)


@dataclass(frozen=True)
class _Kept:
    """The row of a cell, and the folder that it left."""

    row: Row
    folder: Path

    @property
    def task(self) -> str:
        return str(self.row["task"])

    @property
    def predictions(self) -> Path:
        return self.folder / PREDICTIONS


def find(runs: Sequence[Path], asked: Collection[str] = ()) -> list[Candidates]:
    """The cells of some CSVs that can be members, by task. A cell that several have counts once.

    A part of task `multitask` has the cells that learned it alone and those that learned all parts
    together, as far as they predicted the same examples. Where they did not, one kind is left out:
    the cells of the part alone, or, if tasks are asked for and `multitask` is not, the others.

    Args:
        asked: tasks, of which those count that are there; none for the only one that there is, or
            for all parts of `multitask`.

    Raises:
        InputError: for none, several tasks of which none is asked for, several data sets, or
            predictions that are gone.
    """
    told = ", ".join(map(str, runs))
    rows = [(path, row) for path in runs for row in standing(read_rows(path)).values()]
    rows = [(p, r) for p, r in rows if has_score(r) and r["learning_rate_source"] != CANDIDATE]
    tasks = _wanted(told, [row for _, row in rows], asked)
    whole = not asked or MULTITASK in asked
    return [_candidates(told, task, rows, whole=whole) for task in tasks]


def _learned(row: Row) -> Collection[str]:
    """The tasks that a row's cell learned: of `multitask` its parts."""
    if row["task"] != MULTITASK:
        return (str(row["task"]),)
    try:
        return from_text(str(row["task_rates"] or ""))
    except ValueError:
        return ()


def _wanted(told: str, rows: Sequence[Row], asked: Collection[str]) -> list[str]:
    """The tasks to make ensembles of, parts of `multitask` in their order."""
    there = sorted({str(row["task"]) for row in rows})
    learned = {task for row in rows for task in _learned(row)}
    named = {task for task in asked if task != MULTITASK}
    if MULTITASK in asked:
        named |= learned & PART_SCORES.keys()
    wanted = named if asked else learned
    if not asked and len(wanted) > 1 and not wanted <= PART_SCORES.keys():
        raise InputError(f"{told}: holds tasks {', '.join(there)}; choose with --task")
    found = wanted & learned
    if not found:
        what = f" of task {', '.join(asked)}" if asked else ""
        raise InputError(f"{told}: no cell{what} ended ok with a score; run a grid first")
    in_order = [*PART_SCORES, *asked, *sorted(found)]
    return [task for task in dict.fromkeys(in_order) if task in found]


def _candidates(
    told: str, task: str, rows: Sequence[tuple[Path, Row]], *, whole: bool
) -> Candidates:
    """Those of one task.

    Args:
        whole: whether cells that learned all parts together go before those of the part alone.
    """
    cells = _once((path, row) for path, row in rows if task in _learned(row))
    held = [cell for cell in cells if cell.row["held_out"]]
    if not held:
        raise InputError(
            f"{told}: no cell of {cells[0].task} held training examples out, by which members are "
            "chosen; run a grid with held_out = 0.1 in its settings"
        )
    kinds = {cell.task for cell in held}
    kind = MULTITASK if MULTITASK in kinds and (whole or len(kinds) == 1) else task
    first = [cell for cell in held if cell.task == kind]
    for name, what in (("data_digest", "examples"), ("held_out", "shares held out")):
        if len({cell.row[name] for cell in first}) > 1:
            raise InputError(f"{told}: cells of {kind} have different {what}; keep them apart")
    read = [_read(cell, task) for cell in first]
    # one with indices, if there is any: one without them may be like several that differ
    known = next((i for i, (_, own) in enumerate(read) if own.held_indices is not None), 0)
    examples = read[known][1]
    for cell, (_, own) in zip(first, read, strict=True):
        if not _same(examples, own):
            raise InputError(
                f"{cell.predictions}: was made on other examples than those of the other cells; "
                f"{_why_others(cell.row, first[known].row)}"
            )
    others = [_read(cell, task) for cell in held if cell.task != kind]
    joining = []
    for member, own in others:
        if _same(examples, own):
            joining.append(member)
            examples = own if examples.held_indices is None else examples
    return Candidates(
        task=task,
        metric=find_task(task).metric if kind == MULTITASK else str(first[0].row["dev_metric"]),
        members=[*(member for member, _ in read), *joining],
        labels=read[0][1].labels,
        held_labels=read[0][1].held_labels,
        left_out=len(others) - len(joining),
    )


def _once(rows: Iterable[tuple[Path, Row]]) -> list[_Kept]:
    """Each cell once, of several places the first one that still has its predictions."""
    found: dict[str, _Kept] = {}
    for path, row in rows:
        cell_id, folder = str(row["cell_id"]), folder_of(path, row)
        if cell_id not in found or not is_file(found[cell_id].predictions):
            found[cell_id] = _Kept(row, folder)
    return list(found.values())


def _why_others(row: Row, other: Row) -> str:
    """Why two cells of the same data hold different examples out, which goes by their tokens."""
    lengths = row["max_length"], other["max_length"]
    if lengths[0] != lengths[1]:
        return (
            f"with max_length {lengths[0]} and {lengths[1]} different ones are held out; keep them "
            "apart"
        )
    return "models of different vocabularies hold different examples out, and can't be together"


def _same(one: _Examples, other: _Examples) -> bool:
    """Whether examples are the same, by their labels alone where one has no indices."""
    pairs = [(one.labels, other.labels), (one.held_labels, other.held_labels)]
    if one.held_indices is not None and other.held_indices is not None:
        pairs.append((one.held_indices, other.held_indices))
    return all(np.array_equal(a, b) for a, b in pairs)


def _read(cell: _Kept, task: str) -> tuple[Member, _Examples]:
    """A cell as a member for a task, and what tells the task's examples."""
    prefix = f"{task}." if cell.task == MULTITASK else ""
    found = _tensors(cell.predictions, prefix)
    logits, held_logits = (found[name] for name in _LOGITS)
    labels, held_labels = (found[name] for name in _LABELS)
    examples = _Examples(labels, held_labels, found.get(_INDICES))
    return Member(cell.row, logits, held_logits, cell.folder), examples


def _tensors(path: Path, prefix: str) -> Arrays:
    """Logits, labels and, if there, indices in a file, whose names there begin with a prefix."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: is gone; run the cell again with --rerun ok, or take its row out"
        ) from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: can't be read ({error})") from error
    names = {name: f"{prefix}{name}" for name in (*_LOGITS, *_LABELS)}
    if missing := [there for there in names.values() if there not in tensors]:
        raise InputError(f"{path}: has no {missing[0]}; run the cell again with --rerun ok")
    names[_INDICES] = f"{prefix}{_INDICES}"
    found = {name: tensors[there] for name, there in names.items() if there in tensors}
    shaped = all(found[name].ndim == 2 and found[name].shape[1] for name in _LOGITS)
    shaped = shaped and all(of.ndim == 1 for name, of in found.items() if name not in _LOGITS)
    sizes = {len(found[name]) for name in ("logits", "labels")} if shaped else set()
    held = {len(of) for name, of in found.items() if name.startswith("held_")} if shaped else set()
    if len(sizes) != 1 or len(held) != 1:
        raise InputError(f"{path}: predictions and labels don't fit together")
    if 0 in sizes | held:
        raise InputError(f"{path}: holds predictions of no examples")
    if not all(np.isfinite(array).all() for array in found.values()):
        raise InputError(
            f"{path}: holds predictions that are no numbers; run the cell again with --rerun ok"
        )
    if _INDICES in found and not _are_indices(found[_INDICES]):
        raise InputError(
            f"{path}: {names[_INDICES]} are no indices; run the cell again with --rerun ok"
        )
    return found


def _are_indices(array: NDArray[Any]) -> bool:
    """Whether numbers [N] can be indices of examples, each once and in order, as cells keep them.

    They are only compared, so the number of training examples, which no file has, is not needed.
    """
    ascending = (array[1:] > array[:-1]).all()
    return bool(array.dtype == np.int64 and array[0] >= 0 and ascending)
