"""The cells that can be members of an ensemble, with what they predicted."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.cell import Cell
from bench.errors import InputError
from bench.protocol import PREDICTIONS
from bench.schema import CANDIDATE, MULTITASK, Row, latest
from bench.store import cell_folder

_LOGITS: Final = ("logits", "held_logits")
_TENSORS: Final = (*_LOGITS, "labels", "held_labels")


@dataclass(frozen=True)
class Member:
    """A cell that ended ok, its logits [N, C] on dev and on what was held out of training."""

    row: Row
    logits: NDArray[np.float32]
    held_logits: NDArray[np.float32]

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
    """Members of one task, with the labels [N] of the examples that all of them predicted."""

    task: str
    metric: str
    members: Sequence[Member]
    labels: NDArray[Any]
    held_labels: NDArray[Any]


def find(runs: Path, rows: Iterable[Row], task: str | None) -> Candidates:
    """The cells of a CSV that can be members.

    Args:
        task: which; None if there is only one.

    Raises:
        InputError: for none, several tasks or data sets, or predictions that are gone.
    """
    ok = [
        row
        for row in latest(rows).values()
        if row["status"] == "ok"
        and row["dev_score"] is not None
        and row["learning_rate_source"] != CANDIDATE
        and (task is None or row["task"] == task)
    ]
    ok = list({str(row["cell_id"]): row for row in ok}.values())  # on one machine is enough
    tasks = sorted({str(row["task"]) for row in ok})
    if not ok:
        what = f" of task {task}" if task else ""
        raise InputError(f"{runs}: no cell{what} ended ok with a score; run a grid first")
    if len(tasks) > 1:
        raise InputError(f"{runs}: holds tasks {', '.join(tasks)}; choose one with --task")
    if tasks == [MULTITASK]:
        raise InputError(
            f"{runs}: no ensembles are made of task {tasks[0]}, which has parts; choose another "
            "with --task"
        )
    held = [row for row in ok if row["held_out"]]
    if not held:
        raise InputError(
            f"{runs}: no cell of {tasks[0]} held training examples out, by which members are "
            "chosen; run a grid with held_out = 0.1 in its settings"
        )
    for name, what in (("data_digest", "examples"), ("held_out", "shares held out")):
        if len({row[name] for row in held}) > 1:
            raise InputError(f"{runs}: cells of {tasks[0]} have different {what}; keep them apart")
    return _read(runs, held)


def _read(runs: Path, rows: Sequence[Row]) -> Candidates:
    members, labels = [], None
    for row in rows:
        ids = (str(row["cell_id"]), str(row["conditions_id"]), int(row["attempt"] or 0))
        try:
            path = cell_folder(runs, Cell.from_columns(row).name, *ids) / PREDICTIONS
        except ValueError as error:
            raise InputError(f"{runs}: {error}") from error
        found = _tensors(path)
        own = found["labels"], found["held_labels"]
        if labels is None:
            labels = own
        elif not all(np.array_equal(a, b) for a, b in zip(labels, own, strict=True)):
            raise InputError(
                f"{path}: was made on other examples than those of the other cells; models of "
                "different vocabularies hold different examples out, and can't be together"
            )
        members.append(Member(row, found["logits"], found["held_logits"]))
    if labels is None:
        raise InputError(f"{runs}: no cell has predictions")
    first = rows[0]
    return Candidates(str(first["task"]), str(first["dev_metric"]), members, *labels)


def _tensors(path: Path) -> Mapping[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(path)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: is gone; run the cell again with --fresh, or take its row out"
        ) from error
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: can't be read ({error})") from error
    if missing := [name for name in _TENSORS if name not in found]:
        raise InputError(f"{path}: has no {missing[0]}; run the cell again with --fresh")
    sizes = {len(found[name]) for name in ("logits", "labels")}
    held = {len(found[name]) for name in ("held_logits", "held_labels")}
    if len(sizes) > 1 or len(held) > 1 or {found[name].ndim for name in _LOGITS} != {2}:
        raise InputError(f"{path}: predictions and labels don't fit together")
    if 0 in sizes | held:
        raise InputError(f"{path}: holds predictions of no examples")
    return found
