"""From what a worker left to a row of runs.csv."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bench.common.files import write_atomically
from bench.plan.cell import OVERALL, Cell, Row
from bench.plan.columns import BY_NAME, LARGEST, new_row, upgraded
from bench.plan.parts import scores_of
from bench.results.overall import overall_interval
from bench.results.protocol import PANEL, ROW, STEPS
from bench.results.rowfile import encode
from bench.stats.intervals import Interval, fisher, wilson
from bench.stats.steptimes import StepTimes, panel_times, training_times

UNSTEADY: Final = 0.1
"""Half an interval of the time for 1,000 tokens, as a share of it, from which it is unstable."""


_MEASURED: Final = {
    name
    for name, column in BY_NAME.items()
    if column.group not in ("identity", "axes", "settings", "conditions")
} | {"grid", "attempt", "repeat"}
"""What may come from a run; the rest is the cell's, its conditions' and the outcome's to say."""

_LARGEST_FILE: Final = 2**26
"""Bytes of step times that are read: a million steps."""
_LARGEST_PANEL: Final = 2**24
"""Of a panel's; a bootstrap of more takes minutes and says the same."""


def measured_row(
    cell: Cell,
    conditions: Row,
    *,
    columns: dict[str, Any],
    status: str,
    flags: list[str],
    message: str,
    folder: Path,
    dev_examples: Mapping[str, int],
    majority_score: float | None,
) -> Row:
    """A row with the cell, its conditions and what was measured, intervals included.

    Args:
        columns: those that worker and runner measured; names that are no columns are ignored.
        folder: the cell's folder, for its step times.
        dev_examples: the numbers of examples behind the dev score, of each part of the task.
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
        if row["dev_metric"] in ("accuracy", OVERALL):
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
        row = upgraded({name: value for name, value in found.items() if name in BY_NAME})
        encode(row)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return row


def step_times(folder: Path) -> tuple[Row, bool]:
    """The columns of step times from a folder's files, and whether they are steady.

    From panel.csv where a panel was replayed, else from the steps of training in steps.csv. Nothing
    where neither can be used: the cell did not get that far, or the file is damaged.
    """
    panel = folder / PANEL
    try:
        if panel.exists():
            return _of_panel(_lines(panel, _LARGEST_PANEL))
        return _of_training(_lines(folder / STEPS, _LARGEST_FILE))
    except (OSError, ValueError, TypeError, KeyError, ArithmeticError, csv.Error):
        return {}, True


def _lines(path: Path, largest: int) -> list[dict[str, str]]:
    """The lines of a file of steps.

    Raises:
        OSError, ValueError, csv.Error: if it can't be read, is no file or is too large.
    """
    if not path.is_file() or path.stat().st_size > largest:
        raise ValueError("no file of step times")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def _of_panel(lines: list[dict[str, str]]) -> tuple[Row, bool]:
    """As `step_times`, from the lines of a panel.

    Raises:
        ValueError, TypeError, KeyError, ArithmeticError: for what is no panel.
    """
    passes: dict[str, list[dict[str, str]]] = {}
    for line in lines:
        if line["counts"] == "1":
            passes.setdefault(line["pass"], []).append(line)
    if not passes:
        raise ValueError("no pass counts")
    panel = next(iter(passes.values()))
    tokens, examples = _sizes(panel)
    times = [_milliseconds(each) for each in passes.values()]
    steps = sum(len(each) for each in times)
    return _columns(
        panel_times(times, tokens), steps, tokens, examples, settled=panel[0]["settled"] == "1"
    )


def _of_training(lines: list[dict[str, str]]) -> tuple[Row, bool]:
    """As `step_times`, from the lines of all training steps.

    Raises:
        ValueError, TypeError, KeyError: for what is none, or too few.
    """
    tokens, examples = _sizes(lines)
    padded = [int(line["padded"]) for line in lines]
    if not all(size >= least for size, least in zip(padded, tokens, strict=True)):
        raise ValueError("padding makes no batch smaller")
    found = training_times(_milliseconds(lines), tokens, padded)
    return _columns(found, len(lines) - found.warm, tokens, examples, settled=found.settled)


def _sizes(lines: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """Real tokens and examples of each step."""
    tokens = [int(line["tokens"]) for line in lines]
    if not all(0 < size < LARGEST for size in tokens):
        raise ValueError("a step has tokens")
    return tokens, [int(line["examples"]) for line in lines]


def _milliseconds(lines: list[dict[str, str]]) -> list[float]:
    times = [float(line["ms"]) for line in lines]
    if not all(0 < ms < LARGEST for ms in times):
        raise ValueError("a step takes time")
    return times


def _columns(
    found: StepTimes, steps: int, tokens: list[int], examples: list[int], *, settled: bool
) -> tuple[Row, bool]:
    """The columns of times that `steps` steps gave, on batches of these sizes; whether steady."""
    rate = found.ms_per_1k_tokens
    columns: Row = {
        "step_ms_median": found.step_ms.value,
        "step_ms_ci_low": found.step_ms.low,
        "step_ms_ci_high": found.step_ms.high,
        "ms_per_1k_tokens": rate.value,
        "ms_per_1k_tokens_ci_low": rate.low,
        "ms_per_1k_tokens_ci_high": rate.high,
        "steps_timed": steps,
        "examples_per_s": sum(examples) / (rate.value * sum(tokens) / 1000) * 1000,
    }
    ends = rate.ends()
    narrow = ends is None or (ends[1] - ends[0]) / 2 <= UNSTEADY * rate.value
    return columns, narrow and settled


def score_interval(row: Row, examples: Mapping[str, int]) -> Row:
    """The 95% interval of the dev score: Wilson's for accuracy, Fisher's for a correlation, and of
    a score over parts that of their mean.

    Args:
        examples: as `dev_examples` of `measured_row`.
    """
    score, metric, total = row["dev_score"], row["dev_metric"], sum(examples.values())
    if not isinstance(score, float):
        return {}
    if metric == OVERALL:
        scores = {part: of for part, of in scores_of(row).items() if part in examples}
        found = overall_interval(scores, examples) if scores else Interval(score)
        return {"dev_ci_low": found.low, "dev_ci_high": found.high}
    by_share = metric == "accuracy"
    low, high = wilson(round(score * total), total) if by_share else fisher(score, total)
    return {"dev_ci_low": low, "dev_ci_high": high}


def not_learned(row: Row) -> bool:
    """Whether the score's interval reaches down to what the majority class, or chance, gives.

    A correlation that can't be computed, for predictions that are all the same, counts too.
    """
    if row["dev_metric"] is None:
        return False
    low, base = row["dev_ci_low"], row["majority_score"] or 0.0
    return low is None or float(low) <= float(base)
