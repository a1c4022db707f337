"""One run of a grid: its cells one after the other, then the report."""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from bench import job as jobs
from bench.conditions import Conditions
from bench.display import Display
from bench.errors import DiskFullError, InputError
from bench.files import write_atomically
from bench.gridfile import Grid
from bench.job import Job
from bench.models import Model
from bench.plan import NOT_RUN, Planned
from bench.protocol import RESULT, parse_result
from bench.results import measured_row
from bench.runner import Outcome, Signals, run_worker
from bench.schema import RESUMED, Row, latest, new_row
from bench.store import Store, cell_folder, plan_file, read_rows
from minbert.tasks import TaskData, majority_score

INTERRUPTED: Final = 130

_NUMERICS: Final = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")
"""Environment that would change what a cell computes behind its settings' back."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """What the cells of one run share."""

    grid: Grid
    conditions: Conditions
    model: Model
    data: TaskData
    data_folder: Path | None
    store: Store
    reports: Path
    keep: bool
    timeout_s: float | None
    arguments: tuple[str, ...]

    def run(self, planned: list[Planned], as_json: bool = False) -> int:
        """Run what the plan says, render the report; the exit code."""
        to_run = [item for item in planned if item.action == "run"]
        ended = "ok"
        with Signals() as signals, Display(len(planned), len(planned) - len(to_run)) as display:
            try:
                self._write_plan(planned)
                for item in to_run:
                    display.start(item.cell.name)
                    row = self._run_cell(item, signals, display)
                    self.store.append(row)
                    display.finish(row)
                    if row["status"] == "interrupted":
                        ended = "interrupted"
                        break
            except (DiskFullError, InputError, OSError) as error:
                display.note(f"stopped: {error}; what is done is kept")
                ended = "stopped"
            if signals.stops > 1:
                self._say_how_to_go_on()
                return INTERRUPTED
        return self._close(planned, ended, as_json)

    def _run_cell(self, item: Planned, signals: Signals, display: Display) -> Row:
        cell, conditions_id = item.cell, self.conditions.conditions_id
        folder = cell_folder(self.store.path, cell.name, cell.cell_id, conditions_id, item.attempt)
        job = self._job(item)
        if item.reason == NOT_RUN and (left := left_behind(folder, job)) is not None:
            display.note(f"{cell.name}: taking over the result that a stopped run left")
            return self._row(item, left, folder)
        argv = [sys.executable, "-m", "bench.worker", str(folder.resolve())]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / jobs.FILE, job.to_json().encode())
            write_atomically(folder / "command.txt", f"{shlex.join(argv)}\n".encode())
        except OSError as error:
            raise DiskFullError(f"{folder}: {error.strerror}") from error
        outcome = run_worker(
            folder,
            argv,
            env=self._environment(),
            timeout_s=self.timeout_s,
            on_progress=display.progress,
            signals=signals,
        )
        return self._row(item, outcome, folder)

    def _job(self, item: Planned) -> Job:
        model = self.model
        return Job(
            cell=item.cell,
            conditions_id=self.conditions.conditions_id,
            attempt=item.attempt,
            device=self.conditions.device,
            threads=self.conditions.threads,
            checkpoint=None if model.checkpoint is None else str(model.checkpoint.resolve()),
            geometry=model.geometry,
            tokenizer=str(model.tokenizer.resolve()),
            data=None if self.data_folder is None else str(self.data_folder.resolve()),
            keep=self.keep,
            code_version=self.conditions.code_version,
        )

    def _environment(self) -> dict[str, str]:
        threads = str(self.conditions.threads)
        return {
            **{name: value for name, value in os.environ.items() if name not in _NUMERICS},
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "MKL_NUM_THREADS": threads,
            "OMP_NUM_THREADS": threads,
        }

    def _row(self, item: Planned, outcome: Outcome, folder: Path) -> Row:
        result = outcome.result or {}
        columns = {
            "peak_rss_mib": outcome.peak_rss_mib,
            **result.get("columns", {}),
            "grid": self.grid.name,
            "attempt": item.attempt,
            "wall_s": outcome.wall_s,
            "started_at": outcome.started_at,
            "finished_at": outcome.finished_at,
        }
        return measured_row(
            item.cell,
            self.conditions.columns(),
            columns=columns,
            status=outcome.status,
            flags=list(result.get("flags", [])),
            message=outcome.message,
            folder=folder,
            dev_examples=len(self.data.dev),
            majority_score=majority_score(self.data),
        )

    def _planned_rows(self, planned: list[Planned]) -> list[Row]:
        conditions = self.conditions.columns()
        return [
            new_row(**item.cell.columns(), **conditions, grid=self.grid.name) for item in planned
        ]

    def _write_plan(self, planned: list[Planned]) -> None:
        path = plan_file(self.store.path)
        text = json.dumps(self._planned_rows(planned), indent=1)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text.encode() + b"\n")
        except OSError as error:
            raise DiskFullError(f"{path}: can't be written ({error.strerror})") from error

    def _close(self, planned: list[Planned], ended: str, as_json: bool) -> int:
        """Render, say how it ended and how to go on; the exit code."""
        from bench.report.render import (
            render,
        )  # not before: matplotlib stays out of the cells' time

        rows: list[Row] = []
        try:
            rows = read_rows(self.store.path)
            told = str(
                render(
                    rows,
                    self.reports,
                    planned=self._planned_rows(planned),
                    sources=[self.store.path.name],
                )
            )
        except (DiskFullError, InputError) as error:
            ended, told = "stopped" if ended == "ok" else ended, f"not written: {error}"
        ids = {item.cell.cell_id for item in planned}
        conditions_id = self.conditions.conditions_id
        last = {
            cell_id: str(row["status"])
            for (cell_id, where), row in latest(rows).items()
            if cell_id in ids and where == conditions_id
        }
        counts: dict[str, int] = {}
        for cell_id in ids:
            status = last.get(cell_id, "not run")
            counts[status] = counts.get(status, 0) + 1
        if as_json:
            click.echo(json.dumps({"cells": counts, "report": told}))
        else:
            numbers = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
            click.echo(f"{len(ids)} cells: {numbers}")
            click.echo(f"report: {told}")
        self._say_how_to_go_on(counts)
        if ended == "interrupted":
            return INTERRUPTED
        return 0 if ended == "ok" and counts.get("ok", 0) == len(ids) else 1

    def _say_how_to_go_on(self, counts: dict[str, int] | None = None) -> None:
        """Print the command for the cells that have not run, and those for each way of failing."""
        command = ["python", "-m", "bench.grid", *self.arguments]
        plain = ["python", "-m", "bench.grid", *without_repeats(self.arguments)]
        if counts is None or any(counts.get(status) for status in ("not run", *RESUMED)):
            sys.stderr.write(f"to go on: {shlex.join(plain)}\n")
            if plain != command:
                sys.stderr.write(f"to begin again, older results too: {shlex.join(command)}\n")
        for status in sorted((counts or {}).keys() - {"ok", "not run", *RESUMED}):
            again = shlex.join([*plain, "--rerun", status])
            sys.stderr.write(f"to run again what ended {status}: {again}\n")


def without_repeats(arguments: Sequence[str]) -> list[str]:
    """A grid's arguments without those that make it run again what is done."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip or argument == "--fresh" or argument.startswith("--rerun="):
            skip = False
        elif argument == "--rerun":
            skip = True
        else:
            kept.append(argument)
    return kept


def left_behind(folder: Path, job: Job) -> Outcome | None:
    """What a worker finished whose parent died before it could write the row.

    It counts for the very same job only, the version of the code included. How long the whole took
    nobody has measured then; the files say when it began and ended.
    """
    path = folder / RESULT
    try:
        if Job.read(folder) != job:
            return None
        result = parse_result(path.read_text(encoding="utf-8"))
        begun, ended = ((folder / name).stat().st_mtime for name in (jobs.FILE, RESULT))
    except (OSError, ValueError):
        return None
    if result["status"] != "ok":
        return None
    started_at, finished_at = (
        datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for moment in (begun, ended)
    )
    return Outcome(
        status="ok",
        message="",
        wall_s=None,
        started_at=started_at,
        finished_at=finished_at,
        result=result,
    )
