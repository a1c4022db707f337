"""One attempt at a cell, on whichever machine: what it needs, its worker, and its row."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from bench.common.errors import DiskFullError, InputError, cause_of
from bench.common.files import sync, sync_tree, write_atomically
from bench.launch.runner import WorkerEnd, run_worker
from bench.launch.signals import Signals
from bench.machine.conditions import Target
from bench.machine.environment import command_line, worker_environment
from bench.plan import job as jobs
from bench.plan.cell import Columns
from bench.plan.job import Job
from bench.plan.planning import on_device
from bench.plan.rows import Row, repeat_suffix
from bench.results.row import keep_row, measured_row
from bench.results.store import cell_folder
from bench.results.submission import write_sums

WORKER: Final = (sys.executable, "-m", "bench.worker")
"""The command that runs a cell; its last argument is the cell's folder."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt at a repeat of a cell: its job, and what its row needs besides.

    Planned on one machine it can run on another: `on` gives it that machine's conditions.
    """

    job: Job
    grid: str  # the label in the row
    dev_examples: Mapping[str, int]  # this and the next as of `bench.results.row.measured_row`
    majority_score: float | None = None
    forecast: Columns = field(default_factory=dict)  # columns of the row that were predicted
    expected_s: float | None = None  # seconds by measurements on such a device; None: not known
    timeout_s: float | None = None  # seconds after which it is ended; None: no limit
    prefix: str = ""  # the beginning of its name in a plan of several models or engines
    amp_is_on: bool = False  # whether its `amp` is the device's usual type, not one that was named

    @property
    def name(self) -> str:
        return self.prefix + self.job.cell.name + repeat_suffix(self.job.repeat)

    def folder(self, runs: Path) -> Path:
        cell, job = self.job.cell, self.job
        key = cell.cell_id, job.conditions_id, job.repeat, job.attempt
        return cell_folder(runs, cell.name, *key)

    def on(self, target: Target) -> "Attempt":
        """The same attempt with a device's conditions, usual AMP type and, if auto, `compile`."""
        amp_on = target.amp_on if self.amp_is_on else self.job.cell.amp
        cell = on_device(self.job.cell, amp_on, target.no_compiling)
        return replace(self, job=replace(self.job, cell=cell, **target.conditions.job_fields()))

    def values(self) -> dict[str, Any]:
        return {**vars(self), "job": self.job.values()}

    @classmethod
    def from_values(cls, values: Any) -> "Attempt":
        """The inverse of `values`, for JSON. InputError for any other value."""
        try:
            job = Job.from_json(json.dumps(values["job"]))
            names = {item.name for item in fields(cls)}
            if values.keys() != names:
                raise ValueError(f"lacks or has {values.keys() ^ names}")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(f"is no run of a cell ({error})") from error
        return cls(**{**values, "job": job})


def run_cell(
    run: Attempt,
    target: Target,
    folder: Path,
    *,
    worker: tuple[str, ...] = WORKER,
    on_progress: Callable[[dict[str, Any]], None],
    signals: Signals,
) -> tuple[Row, WorkerEnd]:
    """Run a cell, with the conditions of `target`, in a process on that device and in the folder of
    the attempt; returns its row and how it ended. DiskFullError if its files can't be written."""
    argv = [*worker, str(folder.resolve())]
    env = worker_environment(os.environ, run.job.threads, target.gpu)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / jobs.FILE, run.job.to_json().encode())
        write_atomically(folder / "command.txt", f"{command_line(env, argv)}\n".encode())
    except OSError as error:
        raise DiskFullError(f"{folder}: {error.strerror}") from error
    outcome = run_worker(
        folder, argv, env=env, timeout_s=run.timeout_s, on_progress=on_progress, signals=signals
    )
    return outcome_row(run, target, outcome, folder), outcome


def outcome_row(run: Attempt, target: Target, outcome: WorkerEnd, folder: Path) -> Row:
    job, result = run.job, outcome.result or {}
    emulated = job.cell.amp == "bf16" and not target.device.has_bf16
    columns = {
        "peak_rss_mib": outcome.peak_rss_mib,
        **run.forecast,
        **result.get("columns", {}),
        "grid": run.grid,
        "repeat": job.repeat,
        "attempt": job.attempt,
        "wall_s": outcome.wall_s,
        "started_at": outcome.started_at,
        "finished_at": outcome.finished_at,
    }
    return measured_row(
        job.cell,
        target.conditions.columns(),
        columns=columns,
        status=outcome.status,
        flags=[*result.get("flags", []), *(["emulated_bf16"] if emulated else [])],
        message=outcome.message,
        folder=folder,
        dev_examples=run.dev_examples,
        majority_score=run.majority_score,
    )


def keep(folder: Path, row: Row) -> None:
    """Store a row in its cell's folder, after digests of what else is there, if anything is; all of
    it is durable before the row is. DiskFullError if it can't be written."""
    try:
        with suppress(FileNotFoundError):  # somebody has deleted the folder
            write_sums(folder)
            sync_tree(folder)
            sync(folder.parent)
            sync(folder.parent.parent)  # of the first cell both are new
        keep_row(folder, row)
    except (OSError, InputError) as error:
        raise DiskFullError(f"{folder}: {cause_of(error)}") from error
