"""Cells run by bench.grid as by a user: rows, both engines, forecasts, memory that runs out."""

import csv
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from bench.analysis.engines import agreements
from bench.common.errors import InputError
from bench.common.files import text_or_empty
from bench.common.messages import last_error
from bench.doctor.check import BY_NAME, Context, Finding, SkipError, judged
from bench.launch.locks import FOLDER as LOCKS
from bench.machine.memory import MIB
from bench.plan.columns import COLUMNS
from bench.plan.models import engine_version
from bench.plan.rows import BUSY, TIMING_FLAGS, Row
from bench.results.predictions import kept_losses
from bench.results.protocol import STEPS
from bench.results.store import Store, cell_folder
from minbert.assets.embedded import ASSETS, fetch

RUNS: Final = "runs.csv"
_POLL_S: Final = 0.02  # seconds between two calls of `on_poll` while a grid runs
_DISK_MIB: Final = 50  # for rows, reports and progress of a grid's cells
_GRIDS: Final = Path(__file__).parents[1] / "grids"

GROUPS: Final = ("size", "time", "memory", "quality")
OPTIONAL: Final = ("best_epoch", "peak_process_vram_mib", "process_vram_source")
"""Columns that are empty in a good row: those of settings that it does not have, and NVML's."""
STEPS_TAKEN: Final = 6  # as in grid.toml
SIZES: Final = (8, 512)  # texts in a batch of the small and of the large cell
ROOM_MIB: Final = 100  # what the small cell has left


def run_cells(
    context: Context,
    grid: str,
    *options: str,
    folder: str = "cells",
    address_space: int | None = None,
    on_poll: Callable[[int], None] = lambda _pid: None,
) -> list[Row]:
    """Run a grid of `bench/doctor/grids` in a folder of its own, with more options, and return its
    rows in the order in which they ran. Each of its processes may map so many bytes of address
    space; `on_poll` is called all the time with the process id of the grid. SkipError if the
    embedded model and data are neither in the cache nor can be fetched, InputError if the grid ends
    without a row."""
    try:
        for asset in ASSETS:
            fetch(asset)
    except InputError as error:
        raise SkipError(f"the embedded model and data are needed: {error}") from error
    free_mib = shutil.disk_usage(context.folder).free / MIB
    if free_mib < _DISK_MIB:
        raise SkipError(
            f"it needs {_DISK_MIB} MiB of disk, and {free_mib:,.0f} are free in {context.folder}: "
            "set TMPDIR to another folder"
        )
    place = context.folder / folder
    place.mkdir()
    argv = [
        *(sys.executable, "-m", "bench.grid", "--grid", str(_GRIDS / f"{grid}.toml"), *options),
        *("--device", context.device),
        *("--runs", str(place / RUNS), "--reports", str(place / "reports")),
    ]
    limit = None
    if address_space is not None:
        limit = partial(resource.setrlimit, resource.RLIMIT_AS, (address_space, address_space))
    env = {**os.environ, LOCKS: str(place)}  # not to wait for a turn after another grid's cell
    stderr = place / "stderr.txt"
    with stderr.open("wb") as errors:
        process = subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, preexec_fn=limit
        )
        while process.poll() is None:
            on_poll(process.pid)
            time.sleep(_POLL_S)
    rows = Store(place / RUNS).rows if (place / RUNS).exists() else []
    if not rows:
        raise InputError(last_error(text_or_empty(stderr)))
    return list(rows)


def grid(context: Context) -> Finding:
    """Run a cell of minilm for six steps, and compare the columns of its row with one another."""
    [row] = run_cells(context, "grid")
    wrong = [] if row.device == context.device else [f"the row's device is {row.device}"]
    folder = context.folder / "cells"
    steps = cell_folder(folder / RUNS, row.cell.name, *row.key, row.attempt) / STEPS
    if not (folder / "reports" / "index.html").exists():
        wrong.append("there is no report")
    step_s = [
        float(line["ms"]) / 1000 for line in csv.DictReader(text_or_empty(steps).splitlines())
    ]
    return judge_grid(row, step_s, wrong)


def judge_grid(row: Row, step_s: list[float], problems: list[str]) -> Finding:
    wrong = [*_problems(row, step_s), *problems]
    names = ("status", "flags", "message", "step_ms_median", "train_s", "wall_s")
    memory = (column.name for column in COLUMNS if column.group == "memory")
    figures: dict[str, Any] = {name: row[name] for name in (*names, *memory)}
    doubts = ", ".join(flag for flag in row.flag_names if flag in TIMING_FLAGS)
    return judged(
        "grid", figures | ({"wrong": wrong} if wrong else {}), {"problems": wrong},
        model=row.model, note=f"; flagged {doubts}" if doubts else "",
    )  # fmt: skip


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
    limits = BY_NAME["grid"].limits
    numbers = {c.name: v for c in COLUMNS if isinstance(v := row[c.name], int | float)}
    parts = numbers["activations_mib"]
    if row.device == "cpu":  # where weights may be a mapped file
        peak = numbers["peak_anon_mib"] - numbers["imports_anon_mib"]
    else:
        peak, parts = numbers["peak_cuda_allocated_mib"], parts + numbers["weights_mib"]
    if peak < parts:
        yield f"the peak, {peak:,.0f} MiB, is less than tensors that exist at once, {parts:,.0f}"
    in_parts = sum(numbers[f"{name}_ms"] for name in ("forward", "backward", "optimizer"))
    if abs(in_parts / numbers["step_ms_median"] - 1) > limits["parts"]:
        yield f"a step takes {row.step_ms_median:.1f} ms, and its parts {in_parts:.1f}"
    least, most = limits["steps_share"]
    share = sum(step_s) / numbers["train_s"]
    if len(step_s) != STEPS_TAKEN or not least <= share <= most:
        yield f"{len(step_s)} steps take {share:.0%} of the time of training"


def engines(context: Context) -> Finding:
    """Train a cell of minilm for three steps in each engine, and compare the losses."""
    try:
        version = engine_version()
    except InputError as error:
        raise SkipError(str(error)) from error
    rows = run_cells(context, "engines")
    if failed := [row for row in rows if not row.is_ok]:
        return judged("engines", {}, {"cell": failed[0]})
    [agreement] = agreements(rows, kept_losses([context.folder / "cells" / RUNS]))
    figures = {"difference": agreement.difference, "limit": agreement.limit}
    failures = {"losses": not agreement.agrees}
    return judged("engines", figures, failures, steps=agreement.steps, version=version)


def forecast(context: Context) -> Finding:
    """Run the cells in one grid, which learns from each, and compare each with its forecast."""
    larger = () if context.device == "cpu" else ("--model", "minilm")  # than cuBLAS's workspace
    rows = run_cells(context, "forecast", *larger)
    figures = {f"{row.mode} {row.amp}": _forecast_of(row) for row in rows}
    errors = {name: each["error"] for name, each in figures.items() if each["error"] is not None}
    worst = max(errors, key=lambda name: abs(errors[name]), default="")
    failures = {
        "cell": next((row for row in rows if not row.is_ok), None),
        "missing": next((name for name in figures if name not in errors), ""),
        "off": errors and not abs(errors[worst]) <= BY_NAME["forecast"].limits["error"],
    }
    words = {"cells": len(errors), "worst": worst, **figures.get(worst, {})}
    return judged("forecast", figures, failures, **words)


def _forecast_of(row: Row) -> dict[str, float | None]:
    """A row's predicted peak, its peak, and the error as a share of the peak above the imports."""
    if row.device == "cpu":
        measured, parts = row.peak_rss_mib, (row.peak_anon_mib, row.imports_anon_mib)
        above = None if None in parts else float(parts[0] or 0.0) - float(parts[1] or 0.0)
    else:
        measured = above = row.peak_cuda_allocated_mib
    predicted, error = row.predicted_peak_mib, None
    if predicted is not None and measured is not None and above:
        error = (predicted - measured) / above
        if row.device != "cpu" and error < 0:
            error = min(0.0, error + BY_NAME["forecast"].limits["workspace_mib"] / above)
    return {"predicted_mib": predicted, "measured_mib": measured, "error": error}


def out_of_memory(context: Context) -> Finding:
    """Run the small cell without a limit to see its need, and both cells with 100 MiB more."""
    peaks = [0.0]
    [first] = run_cells(
        context, "out-of-memory", "--select", f"batch_size={SIZES[0]}", folder="unlimited",
        on_poll=lambda grid: peaks.append(most_mapped_mib(grid)),
    )  # fmt: skip
    if not first.is_ok:
        return judged("out-of-memory", {}, {"unlimited": first})
    if context.device == "cpu":
        limit_mib = max(peaks) + ROOM_MIB
        space = int(limit_mib * MIB)
        rows = run_cells(context, "out-of-memory", folder="limited", address_space=space)
    else:
        if first.peak_process_vram_mib is None:
            raise SkipError("NVML does not report the memory of this GPU")
        limit_mib = first.peak_process_vram_mib + ROOM_MIB
        import torch

        torch.cuda.set_device(torch.device(context.device))
        free = torch.cuda.mem_get_info()[0] - int(limit_mib * MIB)
        filler = torch.empty(max(0, free), dtype=torch.uint8, device=context.device)
        rows = run_cells(context, "out-of-memory", folder="limited")
        del filler
    by_size: dict[Any, Row] = {row.batch_size: row for row in rows}
    small, large = map(by_size.get, SIZES)
    expected = "oom" if context.device == "cpu" else BUSY  # the filler is another process's
    figures = {
        "expected": expected, "limit_mib": limit_mib, "small": small and small.status,
        "large": large and large.status, "large_message": large and large.message,
    }  # fmt: skip
    failures = {
        "no-small": small is None,
        "small": small is not None and not small.is_ok,
        "no-large": large is None,
        "large": large is not None and large.status != expected,
    }
    return judged("out-of-memory", figures, failures, row=small, room_mib=ROOM_MIB)


def most_mapped_mib(grid: int) -> float:
    """The most address space that a worker which a grid runs now has mapped, by the kernel."""
    most = 0.0
    with suppress(psutil.Error):  # they end at any time
        for process in psutil.Process(grid).children(recursive=True):
            if "bench.worker" in process.cmdline():
                status = text_or_empty(Path(f"/proc/{process.pid}/status"))
                if peak := re.search(r"VmPeak:\s*(\d+)", status):
                    most = max(most, int(peak[1]) / 1024)
    return most
