"""Submits job arrays: their folder, their script, their time limit."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from bench.executors.slurm import commands
from bench.executors.slurm.commands import SlurmError
from bench.executors.slurm.options import Request, script
from bench.executors.slurm.submission import Submission, submissions_folder
from bench.launch.attempt import WORKER, Attempt

_TIMES: Final = 3.0
"""A time limit by this multiple of the forecast, and so many seconds for the job's own start:"""
_SPARE_S: Final = 300.0


@dataclass(frozen=True)
class Submitter:
    """Submits the cells of a CSV, which use the device, as of `find_conditions`, on a node. The
    last argument of the worker's command is the cell's folder."""

    runs: Path
    request: Request
    device: str
    kinds_folder: Path
    worker: tuple[str, ...] = WORKER

    def submit(self, groups: Sequence[Sequence[Attempt]], after: int | None = None) -> Submission:
        """Submit an array, with an array task for each group of cells; with --max-running after the
        job of an id, if one is given, has ended. SlurmError if it is refused, or Slurm does not
        answer; should the job be queued nevertheless, it finds no folder and runs nothing. OSError
        if the folder can't be written."""
        name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{token_hex(2)}"
        folder = (submissions_folder(self.runs) / name).resolve()
        request: dict[str, Any] = {
            "runs": str(self.runs.parent.resolve() / self.runs.name), "device": self.device,
            "kinds": str(self.kinds_folder.resolve()), "user": os.getuid(),
        }  # fmt: skip
        submission = Submission.create(folder, request, groups, self.script(groups, folder))
        most = self.request.max_running
        options = [f"--array=0-{len(groups) - 1}{'' if most is None else f'%{most}'}"]
        if most is not None and after is not None:
            options.append(f"--dependency=afterany:{after}")
        try:
            job = commands.submit(submission.script, *options)
        except SlurmError:
            shutil.rmtree(folder)
            raise
        submission.keep_job(job)
        return submission

    def script(self, groups: Sequence[Sequence[Attempt]], folder: Path | None = None) -> str:
        """The job script of an array in a submission's folder; None: of one that is not made."""
        if folder is None:
            folder = (submissions_folder(self.runs) / "SUBMISSION").resolve()
        request, limit_s = self.request, self.limit_s(groups)
        if request.limit_s is None and limit_s is not None:
            request = request.with_limit(limit_s)
        worker = () if self.worker == WORKER else self.worker
        output = folder / "output" / "%a.txt"
        return script(request, Submission(folder).name, output, "node", [str(folder), *worker])

    def limit_s(self, groups: Sequence[Sequence[Attempt]]) -> float | None:
        """The time limit of each array task in seconds, by the forecast or --timeout, at most the
        partition's; None if neither limits each cell."""
        expected = [[_longest_s(run) for run in group] for group in groups]
        sums = [sum(filter(None, group)) for group in expected if None not in group]
        if len(sums) < len(expected):
            return None
        return min(max(sums) + _SPARE_S, self._most_s)

    @cached_property
    def most(self) -> int:
        return commands.most_indexes()

    @cached_property
    def _most_s(self) -> float:
        limits = commands.partitions()
        names = self.request.partition.split(",")
        known = [limits[name][1] for name in names if name in limits]
        return min((limit for limit in known if limit is not None), default=float("inf"))


def _longest_s(run: Attempt) -> float | None:
    """The most seconds that a cell may be expected to take; None if that is not known."""
    by_forecast = None if run.expected_s is None else _TIMES * run.expected_s
    known = [limit for limit in (by_forecast, run.timeout_s) if limit is not None]
    return min(known, default=None)
