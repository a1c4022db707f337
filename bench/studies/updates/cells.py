"""The cells that have kept their trained weights, and what was left out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.common.errors import InputError
from bench.plan.cell import CANDIDATE, MULTITASK, Cell, Row
from bench.plan.columns import standing
from bench.report.text import count, plain
from bench.results.origins import folder_of
from bench.results.store import read_rows
from minbert.files import is_folder

_NOT_KEPT: Final = "that kept no weights; run the grid again with --save-weights --rerun ok"


@dataclass(frozen=True)
class Trained:
    """A cell that ended ok and left its weights. `name` tells it from the others read with it."""

    row: Row
    folder: Path
    name: str

    @property
    def cell(self) -> Cell:
        """Its axes and settings."""
        return Cell.from_columns(self.row)

    @property
    def whole(self) -> bool:
        """Whether all of the model trained and was kept, as a checkpoint; else it is an adapter."""
        return self.row["rank"] is None

    @property
    def weights(self) -> Path:
        """The folder that `--save-weights` left."""
        return self.folder / ("checkpoint" if self.whole else "adapter")


def find(runs: Sequence[Path]) -> tuple[list[Trained], list[str]]:
    """The cells of some CSVs that kept weights, in their order, and a line for each kind left out.

    A cell that is there several times counts once, where it has weights.

    Raises:
        InputError: if there is none.
    """
    told = ", ".join(map(str, runs))
    rows = [(path, row) for path in runs for row in standing(read_rows(path)).values()]
    ended = [
        (path, row)
        for path, row in rows
        if row["status"] == "ok" and row["learning_rate_source"] != CANDIDATE
    ]
    if not ended:
        raise InputError(f"{told}: no cell ended ok; run a grid first, with --save-weights")
    found: dict[str, Trained] = {}
    lacking: dict[str, str] = {}
    for path, row in ended:
        of = Trained(row, folder_of(path, row), Cell.from_columns(row).name)
        cell_id = str(row["cell_id"])
        why = _why_not(row) or (None if is_folder(of.weights) else _NOT_KEPT)
        if why is None:
            found.setdefault(cell_id, of)
        else:
            lacking[cell_id] = why
    kinds = Counter(why for cell_id, why in lacking.items() if cell_id not in found)
    if not found:
        raise InputError(
            f"{told}: no weights to read: "
            + ", ".join(f"{count(number, 'cell')} {why}" for why, number in kinds.items())
        )
    notes = [f"left out: {count(number, 'cell')} {why}" for why, number in kinds.items()]
    return _named(list(found.values())), notes


def _why_not(row: Row) -> str | None:
    """Why a cell's update can't be read, whatever it kept; None if it can."""
    if row["init"] == "random":
        return "that began with random weights"
    if row["task"] == MULTITASK:
        return f"of task {MULTITASK}, whose weights are not read"
    return "whose head alone trained" if row["mode"] == "head" else None


def _named(cells: Sequence[Trained]) -> list[Trained]:
    """Cells with names that differ: with task, model and digest where they have to."""
    tasks = {of.row["task"] for of in cells}
    models = {of.row["model_digest"] for of in cells}
    names = [
        ", ".join(
            [
                of.name,
                *([plain(str(of.row["task"]))] if len(tasks) > 1 else []),
                *([plain(str(of.row["model"]))] if len(models) > 1 else []),
            ]
        )
        for of in cells
    ]
    often = Counter(names)
    return [
        replace(of, name=name if often[name] == 1 else f"{name} {str(of.row['cell_id'])[:6]}")
        for of, name in zip(cells, names, strict=True)
    ]
