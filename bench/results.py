"""From what a worker left to a row of runs.csv."""

import csv
import json
from pathlib import Path
from typing import Any, Final

from bench.cell import Cell
from bench.files import write_atomically
from bench.protocol import PANEL, ROW
from bench.rowfile import encode
from bench.schema import BY_NAME, LARGEST, Row, new_row
from bench.stats import fisher, panel_times, wilson

UNSTEADY: Final = 0.1
"""Half an interval of the time for 1,000 tokens, as a share of it, from which it is unstable."""


_MEASURED: Final = {
    name
    for name, column in BY_NAME.items()
    if column.group not in ("identity", "axes", "settings", "conditions")
} | {"grid", "attempt"}
"""What may come from a run; the rest is the cell's, its conditions' and the outcome's to say."""

_LARGEST_PANEL: Final = 2**24
"""The last of them; a bootstrap of more takes minutes and says the same."""


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
        folder: the cell's folder, for the panel's step times.
        dev_examples: the number of examples behind the dev score.
        majority_score: what the training set's majority class scores on dev, if it can.
    """
    known = {name: value for name, value in columns.items() if name in _MEASURED}
    row = new_row(**cell.columns(), **conditions)
    row |= known
    if status == "ok":
        times, steady = step_times(folder)
        row |= times
        if not steady:
            flags = [*flags, "unstable_timing"]
        row |= score_interval(row, dev_examples)
        if row["dev_metric"] == "accuracy":
            row["majority_score"] = majority_score
        if not_learned(row):
            flags = [*flags, "not_learned"]
    row |= {"status": status, "message": " ".join(message.split())[:500] or None}
    row["flags"] = " ".join(dict.fromkeys(flags)) or None
    return row


def keep_row(folder: Path, row: Row) -> None:
    """Leave a row in its cell's folder, durably, from which runs.csv can be rebuilt.

    Raises:
        OSError: if it can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)  # somebody may have deleted it
    write_atomically(folder / ROW, json.dumps(row, indent=1).encode() + b"\n")


def kept_row(folder: Path) -> Row | None:
    """The row that was left in a folder; None where there is none that can be used.

    Columns that it lacks, being of an older schema, are empty.
    """
    try:
        found = json.loads((folder / ROW).read_text(encoding="utf-8"))
        row = new_row(**{name: value for name, value in found.items() if name in BY_NAME})
        encode(row)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return row


def step_times(folder: Path) -> tuple[Row, bool]:
    """The columns of step times from a folder's panel.csv, and whether they are steady.

    Nothing where there is no panel: the cell did not get that far.
    """
    path = folder / PANEL
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_PANEL:
            return {}, True
        with path.open(newline="", encoding="utf-8") as file:
            counted = [line for line in csv.DictReader(file, strict=True) if line["counts"] == "1"]
        return _times(counted)
    except (OSError, ValueError, TypeError, KeyError, ZeroDivisionError, csv.Error):
        return {}, True


def _times(counted: list[dict[str, str]]) -> tuple[Row, bool]:
    """As `step_times`, from the lines of the panel that count.

    Raises:
        ValueError, TypeError, KeyError, ZeroDivisionError: for what is no panel.
    """
    passes: dict[str, list[dict[str, str]]] = {}
    for line in counted:
        passes.setdefault(line["pass"], []).append(line)
    if not passes:
        raise ValueError("no pass counts")
    panel = next(iter(passes.values()))
    tokens = [int(line["tokens"]) for line in panel]
    times = [[float(line["ms"]) for line in each] for each in passes.values()]
    if not all(0 < ms < LARGEST for each in times for ms in each) or min(tokens) < 1:
        raise ValueError("a step takes time and has tokens")
    found = panel_times(times, tokens)
    rate = found.ms_per_1k_tokens
    columns: Row = {
        "step_ms_median": found.step_ms.value,
        "step_ms_ci_low": found.step_ms.low,
        "step_ms_ci_high": found.step_ms.high,
        "ms_per_1k_tokens": rate.value,
        "ms_per_1k_tokens_ci_low": rate.low,
        "ms_per_1k_tokens_ci_high": rate.high,
        "steps_timed": len(counted),
        "examples_per_s": sum(int(line["examples"]) for line in panel)
        / (rate.value * sum(tokens) / 1000)
        * 1000,
    }
    ends = rate.ends()
    narrow = ends is None or (ends[1] - ends[0]) / 2 <= UNSTEADY * rate.value
    return columns, narrow and panel[0]["settled"] == "1"


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
