"""From what a worker left to a row of runs.csv."""

import csv
from pathlib import Path
from typing import Any

from bench.cell import Cell
from bench.schema import BY_NAME, Row, new_row
from bench.stats import bootstrap_median, fisher, wilson


def measured_row(
    cell: Cell,
    conditions: Row,
    *,
    columns: dict[str, Any],
    status: str,
    flags: list[str],
    message: str,
    folder: Path,
    dev_examples: int,
    majority_score: float | None,
) -> Row:
    """A row with the cell, its conditions and what was measured, intervals included.

    Args:
        columns: those that worker and runner measured; names that are no columns are ignored.
        folder: the cell's folder, for the raw step times.
        dev_examples: the number of examples behind the dev score.
        majority_score: what the training set's majority class scores on dev, if it can.
    """
    known = {name: value for name, value in columns.items() if name in BY_NAME}
    row = new_row(**cell.columns(), **conditions)
    row |= known | {"status": status, "message": " ".join(message.split())[:500] or None}
    if status == "ok":
        row |= step_interval(folder, int(row["steps_timed"] or 0))
        row |= score_interval(row, dev_examples)
        if row["dev_metric"] == "accuracy":
            row["majority_score"] = majority_score
        if not_learned(row):
            flags = [*flags, "not_learned"]
    row["flags"] = " ".join(flags) or None
    return row


def step_interval(folder: Path, timed: int) -> Row:
    """Median and interval of the last `timed` steps in the folder's steps.csv."""
    path = folder / "steps.csv"
    if not timed or not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        times = [float(line["ms"]) for line in csv.DictReader(file)][-timed:]
    median, low, high = bootstrap_median(times)
    return {"step_ms_median": median, "step_ms_ci_low": low, "step_ms_ci_high": high}


def score_interval(row: Row, examples: int) -> Row:
    """The 95% interval of the dev score: Wilson's for accuracy, Fisher's for a correlation."""
    score = row["dev_score"]
    if not isinstance(score, float):
        return {}
    low, high = (
        wilson(round(score * examples), examples)
        if row["dev_metric"] == "accuracy"
        else fisher(score, examples)
    )
    return {"dev_ci_low": low, "dev_ci_high": high}


def not_learned(row: Row) -> bool:
    """Whether the score's interval reaches down to what the majority class, or chance, gives.

    A correlation that can't be computed, for predictions that are all the same, counts too.
    """
    if row["dev_metric"] is None:
        return False
    low, base = row["dev_ci_low"], row["majority_score"] or 0.0
    return low is None or float(low) <= float(base)
