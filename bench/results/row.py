"""A row of runs.csv from the result and files of a worker."""

import csv
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import reading
from bench.common.files import read_file, write_atomically
from bench.plan.cell import Cell, Columns
from bench.plan.columns import BY_NAME, LARGEST, part_scores, row_of, values_of
from bench.plan.metrics import OVERALL
from bench.plan.rows import Row
from bench.results.overall import EXACT, overall_interval, score_ends
from bench.results.predictions import read_folder
from bench.results.protocol import PANEL, ROW, STEPS
from bench.results.rowfile import encode
from bench.results.scores import interval_of
from bench.stats.intervals import Interval
from bench.stats.steptimes import StepTimes, replay_times, training_times

UNSTEADY: Final = 0.1
"""Half the interval of the time for 1,000 tokens, as a share of it, above which it is unstable."""

MEASURED: Final = {
    name
    for name, column in BY_NAME.items()
    if column.group not in ("identity", "axes", "settings", "conditions")
} | {"grid", "attempt", "repeat"}
"""Columns that a run may fill; the others come from the cell, its conditions and the outcome."""

_LARGEST_FILE: Final = 2**26  # most bytes of steps.csv that are read: a million steps
_LARGEST_PANEL: Final = 2**24
"""Most bytes of panel.csv that are read; a bootstrap of more takes minutes and adds nothing."""


def measured_row(
    cell: Cell,
    conditions: Columns,
    *,
    columns: dict[str, Any],
    status: str,
    flags: list[str],
    message: str,
    folder: Path,
    dev_examples: Mapping[str, int],
    majority_score: float | None,
) -> Row:
    """A row of the cell, its conditions and its measurements, with intervals.

    Args:
        columns: of worker and runner; names that are no columns are ignored.
        dev_examples: the number of dev examples of each part of the task.
        majority_score: on dev, of the training set's majority class, if there are classes.
    """
    measured = {n: v for n, v in columns.items() if n in MEASURED and v is not None}
    text = " ".join(message.split())[:500] or None
    row = row_of({**cell.columns(), **conditions, **measured, "status": status, "message": text})
    if status == "ok":
        times, steady = step_times(folder)
        if not steady:
            flags = [*flags, "unstable_timing"]
        is_scored = row.dev_metric is not None and BY_NAME["majority_score"].applies_to(row)
        row |= {**times, **score_interval(row, dev_examples, folder)}
        row |= {"majority_score": majority_score if is_scored else None}
        if not_learned(row):
            flags = [*flags, "not_learned"]
    return replace(row, flags=" ".join(dict.fromkeys(flags)) or None)


def row_to_json(row: Row) -> bytes:
    return json.dumps(values_of(row), indent=1).encode() + b"\n"


def read_row(path: Path) -> Row | None:
    """A row of this schema or an older one from a file of its JSON; None for any other file, or
    without one. OSError if it can't be read."""
    with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError,
                  ValueError, TypeError, AttributeError, RecursionError):  # fmt: skip
        values = json.loads(read_file(path))
        row = row_of({name: v for name, v in values.items() if name in BY_NAME})
        encode(row)
        return row
    return None


def keep_row(folder: Path, row: Row) -> None:
    """Store a row durably in its cell's folder, so that runs.csv can be rebuilt."""
    folder.mkdir(parents=True, exist_ok=True)  # somebody may have deleted it
    write_atomically(folder / ROW, row_to_json(row))


def kept_row(folder: Path) -> Row | None:
    """The row in a cell's folder; None without one. InputError if it can't be read."""
    with reading(folder / ROW):
        return read_row(folder / ROW)


def step_times(folder: Path) -> tuple[Columns, bool]:
    """The columns of step times, and whether they are steady: from panel.csv where timing batches
    were replayed, else from the training steps in steps.csv. No columns where neither can be used:
    the cell did not get that far, or the file is damaged."""
    panel = folder / PANEL
    try:
        if panel.exists():
            table = _table(panel, _LARGEST_PANEL)
            counted = {name: column[table["counts"] == 1] for name, column in table.items()}
            passes = [counted["pass"] == number for number in np.unique(counted["pass"])]
            first = {name: column[passes[0]] for name, column in counted.items()}
            ms = [counted["ms"][one].tolist() for one in passes]
            times = replay_times(ms, first["tokens"].tolist())
            return _columns(times, first, counted, settled=first["settled"][0] == 1)
        table = _table(folder / STEPS, _LARGEST_FILE)
        if (table["padded"] < table["tokens"]).any():
            raise ValueError("a batch is smaller with padding than without")
        trained = training_times(*(table[name].tolist() for name in ("ms", "tokens", "padded")))
        timed = {name: column[trained.warm :] for name, column in table.items()}
        return _columns(trained, table, timed, settled=trained.settled)
    except (OSError, ValueError, KeyError, IndexError, ArithmeticError, csv.Error):
        return {}, True


def _table(path: Path, largest: int) -> dict[str, NDArray[np.float64]]:
    text = StringIO(read_file(path, largest).decode(), newline="")
    names, *lines = csv.reader(text, strict=True)
    table = dict(zip(names, np.array(lines, dtype=float).T, strict=True))
    sizes = {"ms", "tokens", "examples", "padded", "forward_ms", "backward_ms"}
    for name in table.keys() & sizes:
        if not ((table[name] > 0) & (table[name] < LARGEST)).all():
            raise ValueError(f"a step has no {name}")
    return table


def _columns(
    times: StepTimes,
    batches: Mapping[str, NDArray[np.float64]],
    timed: Mapping[str, NDArray[np.float64]],
    *,
    settled: bool,
) -> tuple[Columns, bool]:
    """The columns of times on these batches from the timed steps; whether steady."""
    step, rate = times.step_ms, times.ms_per_1k_tokens
    tokens, examples = (float(batches[name].sum()) for name in ("tokens", "examples"))
    columns: Columns = {
        "step_ms_median": step.value, "step_ms_ci_low": step.low, "step_ms_ci_high": step.high,
        "ms_per_1k_tokens": rate.value, "ms_per_1k_tokens_ci_low": rate.low,
        "ms_per_1k_tokens_ci_high": rate.high,
        "steps_timed": timed["ms"].size,
        "examples_per_s": examples / (rate.value * tokens / 1000) * 1000,
    }  # fmt: skip
    if {"forward_ms", "backward_ms"} <= timed.keys():  # not in files of older versions
        total, names = timed["ms"].sum(), ("forward_ms", "backward_ms")
        forward, backward = (float(step.value * timed[name].sum() / total) for name in names)
        optimizer = step.value - forward - backward
        columns |= {"forward_ms": forward, "backward_ms": backward, "optimizer_ms": optimizer}
    ends = rate.ends()
    narrow = ends is None or (ends[1] - ends[0]) / 2 <= UNSTEADY * rate.value
    return columns, bool(narrow and settled)


def score_interval(row: Row, examples: Mapping[str, int], folder: Path) -> Columns:
    """The columns of the dev score's 95% interval, of a metric without a formula from the
    predictions in the cell's folder; `examples` by part of the task."""
    score, metric = row.dev_score, row.dev_metric
    if score is None or metric is None:
        return {}
    try:
        if metric == OVERALL:
            scores = {part: value for part, value in part_scores(row).items() if part in examples}
            interval = overall_interval(scores, examples) if scores else Interval(score)
        elif metric in EXACT:
            interval = Interval(score, *score_ends(metric, score, sum(examples.values())))
        else:
            interval = interval_of(metric, [(read_folder(folder, metric) or {})[""]])
    except (KeyError, ValueError):  # no predictions, or those of another task
        return {}
    return {"dev_ci_low": interval.low, "dev_ci_high": interval.high}


def not_learned(row: Row) -> bool:
    """Whether the score's interval reaches down to the score of the majority class, or of chance;
    also where predictions that are all the same have no correlation."""
    if row.dev_metric is None:
        return False
    return row.dev_ci_low is None or row.dev_ci_low <= (row.majority_score or 0.0)
