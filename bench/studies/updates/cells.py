"""The cells that have kept their trained weights, and the reasons why others were left out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adapters.methods import BITFIT
from bench.common.errors import InputError
from bench.plan.cell import MULTITASK
from bench.plan.rows import Row, current_rows
from bench.report.text import count, plain
from bench.results.origins import folder_of
from bench.results.protocol import WEIGHTS
from bench.results.store import read_rows
from minbert.files import is_file


@dataclass(frozen=True)
class KeptCell:
    """A cell that ended ok and kept its weights. Among the cells of a call its label is unique."""

    row: Row
    folder: Path
    label: str

    @property
    def whole(self) -> bool:
        return self.row.mode == "full"

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS


def find(runs: Sequence[Path]) -> tuple[list[KeptCell], list[str]]:
    """The cells of some CSVs that kept weights, in their order, and a note for each reason why
    others are left out; InputError if there is none. A cell in several CSVs counts once, where it
    has weights."""
    files = ", ".join(map(str, runs))
    cells: dict[str, KeptCell] = {}
    left_out: dict[str, str] = {}
    for path in runs:
        for row in current_rows(read_rows(path)).values():
            if not row.is_ok or row.is_trial:
                continue
            cell = KeptCell(row, folder_of(path, row), row.name)
            if reason := _why_left_out(cell):
                left_out[row.cell_id] = reason
            else:
                cells.setdefault(row.cell_id, cell)
    if not cells and not left_out:
        raise InputError(f"{files}: no cell ended ok; run a grid first, with --save-weights")
    reasons = Counter(reason for cell_id, reason in left_out.items() if cell_id not in cells)
    counts = [f"{count(number, 'cell')} {reason}" for reason, number in reasons.items()]
    if not cells:
        raise InputError(f"{files}: no weights to read: {', '.join(counts)}")
    return _labelled([*cells.values()]), [f"left out: {line}" for line in counts]


def _why_left_out(cell: KeptCell) -> str | None:
    again, row = "run the grid again with --save-weights --rerun ok", cell.row
    reasons = {
        "that began with random weights": row.init == "random",
        f"of task {MULTITASK}, whose weights are not read": row.task == MULTITASK,
        "whose head alone trained": row.mode == "head",
        "in which only the biases and the head trained": row.mode == BITFIT,
        f"that kept no weights; {again}": not is_file(cell.weights),
    }
    return next((reason for reason, is_so in reasons.items() if is_so), None)


def _labelled(cells: Sequence[KeptCell]) -> list[KeptCell]:
    """Cells with unique labels: the name, to which task, model and id are added where needed."""
    columns = {"task": "task", "model_digest": "model"}
    shown = [name for key, name in columns.items() if len({cell.row[key] for cell in cells}) > 1]
    names = [(cell.row.name, *(plain(str(cell.row[name])) for name in shown)) for cell in cells]
    labels = [*map(", ".join, names)]
    return [
        replace(cell, label=label + f" {cell.row.cell_id[:6]}" * (labels.count(label) > 1))
        for cell, label in zip(cells, labels, strict=True)
    ]
