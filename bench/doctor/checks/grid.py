"""One cell from the command bench.grid to its row and report."""

import csv
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from bench.doctor.cells import RUNS, run_cells
from bench.doctor.check import FAILED, OK, Context, Finding
from bench.plan.columns import COLUMNS
from bench.plan.rows import TIMING_FLAGS, Row
from bench.results.protocol import STEPS
from bench.results.store import cell_folder

SETTINGS: Final[dict[str, Any]] = {
    "epochs": 1, "max_steps": 6, "max_train": 96, "max_dev": 128, "batch_size": 16,
}  # fmt: skip
CELL: Final = {"mode": ["lora"], "rank": [8], "layers": ["all-lin-only"], "amp": ["on"]}
GROUPS: Final = ("size", "time", "memory", "quality")
OPTIONAL: Final = ("best_epoch", "peak_process_vram_mib", "process_vram_source")
"""Columns that are empty in a good row: those of settings that it does not have, and NVML's."""
STEPS_SHARE: Final = (0.3, 1.1)
"""Bounds of the share of the training's time that its steps take. Batches are made in the rest,
which takes less than half of it, and the steps of other clocks can't exceed the whole."""
PARTS: Final = 0.01
"""The relative deviation allowed between a step and the sum of its three parts."""


def check(context: Context) -> Finding:
    """Run a cell of minilm for six steps, and compare the columns of its row with one another."""
    [row] = run_cells(context, SETTINGS, [CELL])
    step_s: list[float] = []
    wrong = [] if row.device == context.device else [f"the row's device is {row.device}"]
    folder = context.folder / "cells"
    steps = cell_folder(folder / RUNS, row.cell.name, *row.key, row.attempt) / STEPS
    if not (folder / "reports" / "index.html").exists():
        wrong.append("there is no report")
    with suppress(FileNotFoundError), steps.open(encoding="utf-8", newline="") as file:
        step_s = [float(line["ms"]) / 1000 for line in csv.DictReader(file)]
    return judge(row, step_s, wrong)


def judge(row: Row, step_s: list[float], problems: list[str]) -> Finding:
    """The finding from a cell's row, the seconds of its training steps, and other problems."""
    wrong = [*_problems(row, step_s), *problems]
    figures: dict[str, Any] = {
        name: row[name]
        for name in ("status", "flags", "message", "step_ms_median", "train_s", "wall_s")
    } | {column.name: row[column.name] for column in COLUMNS if column.group == "memory"}
    if wrong:
        remedy = "report this, with the JSON: rows of this machine lack something or contradict it"
        return Finding(FAILED, "; ".join(wrong), remedy, {**figures, "wrong": wrong})
    doubts = ", ".join(flag for flag in row.flag_names if flag in TIMING_FLAGS)
    note = f"; flagged {doubts}" if doubts else ""
    summary = (
        f"a cell of {row.model} ended ok in {row.wall_s:.1f} s with all columns, and its times and "
        f"memory are consistent{note}"
    )
    return Finding(OK, summary, figures=figures)


def _problems(row: Row, step_s: list[float]) -> Iterator[str]:
    if not row.is_ok:
        yield f"a cell of {row.model} ended {row.status} ({row.message})"
        return
    if empty := [
        column.name
        for column in COLUMNS
        if column.group in GROUPS
        and column.applies_to(row)
        and row[column.name] is None
        and column.name not in OPTIONAL
    ]:
        yield f"empty: {', '.join(empty)}"
        return  # the others are compared below
    numbers = {c.name: v for c in COLUMNS if isinstance(v := row[c.name], int | float)}
    parts = numbers["activations_mib"]
    if row.device == "cpu":  # where weights may be a mapped file
        peak = numbers["peak_anon_mib"] - numbers["imports_anon_mib"]
    else:
        peak, parts = numbers["peak_cuda_allocated_mib"], parts + numbers["weights_mib"]
    if peak < parts:
        yield f"the peak, {peak:,.0f} MiB, is less than tensors that exist at once, {parts:,.0f}"
    in_parts = sum(numbers[f"{name}_ms"] for name in ("forward", "backward", "optimizer"))
    if abs(in_parts / numbers["step_ms_median"] - 1) > PARTS:
        yield f"a step takes {row.step_ms_median:.1f} ms, and its parts {in_parts:.1f}"
    share = sum(step_s) / numbers["train_s"]
    if len(step_s) != SETTINGS["max_steps"] or not STEPS_SHARE[0] <= share <= STEPS_SHARE[1]:
        yield f"{len(step_s)} steps take {share:.0%} of the time of training"
