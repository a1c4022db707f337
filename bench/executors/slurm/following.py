"""Submits job arrays, and follows each until all its array tasks have ended and all rows are
collected."""

import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from bench.common.messages import last_error
from bench.executors.slurm import commands
from bench.executors.slurm.commands import TEXTS, Ended, SlurmError, ended
from bench.executors.slurm.options import CHANGES_FOLDER, NO_FILES, NO_PYTHON, Request, script
from bench.executors.slurm.submission import Submission, TaskAttempt, submissions_folder
from bench.launch.attempt import WORKER, Attempt
from bench.plan.rows import Row

_ENDS: Final[dict[str, tuple[str, str]]] = TEXTS["ended"]
"""Status and message of a cell whose array task ended without a row, by Slurm's state."""
_UNSEEN: Final = {
    CHANGES_FOLDER: "its node does not see the folder of the command",
    NO_PYTHON: "its node does not see the Python of the command",
}
_UNKNOWN: Final = "its array task is gone, and Slurm does not say why"


Key = tuple[str, int]  # `bench.plan.planning.Planned.key`
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


def key_of(run: Attempt) -> Key:
    return run.job.cell.cell_id, run.job.repeat


class Following:
    """A submission, and how far its rows are read. `not_run` has, for array tasks that ended before
    any of their cells began, by index the reason and the node if that may be to blame."""

    def __init__(self, submission: Submission) -> None:
        self.submission = submission
        # indexes of the array tasks that may still run, or have rows to be read
        self.open = set(range(len(submission.groups)))
        self.not_run: dict[int, tuple[str, str]] = {}
        self._files: set[str] = set()
        self._new: dict[tuple[int, int], dict[int, Row]] = defaultdict(dict)
        self._ok: set[tuple[int, int]] = set()

    @property
    def keys(self) -> set[Key]:
        """The cells that array tasks may still run."""
        runs = ((i, n, run) for i in self.open for n, run in enumerate(self.submission.groups[i]))
        return {key_of(run) for i, n, run in runs if (i, n) not in self._ok}

    def read(self, queued: AbstractSet[int] | None) -> None:
        """Read the rows that were published since the last call, and close array tasks that ended:
        those that are not queued (None: Slurm did not answer). OSError: rows can't be read."""
        self._read_rows()
        gone = set() if queued is None else self.open - queued
        without_rows = sorted(index for index in gone if not self._is_ok(index))
        if without_rows:
            job = self.submission.job
            known = {} if job is None else ended(job)
            for index in without_rows:
                self._close(index, known.get(index))
            self._read_rows()
        self.open -= gone | {index for index in self.open if self._is_ok(index)}

    def take(self) -> Iterator[tuple[Attempt, list[Row]]]:
        """The cells that have ended since the last call, each with the rows of all its attempts."""
        for (index, number), by_restart in list(self._new.items()):
            if index not in self.open or (index, number) in self._ok:
                del self._new[index, number]
                run = self.submission.groups[index][number]
                yield run, [row for _, row in sorted(by_restart.items())]

    def _read_rows(self) -> None:
        for path in self.submission.rows.iterdir():
            attempt = None if path.name in self._files else TaskAttempt.of_file(path.name)
            row = None if attempt is None else self.submission.row(attempt)
            if attempt is None or row is None:
                continue
            self._files.add(path.name)
            place = attempt.index, attempt.number
            self._new[place][attempt.restart] = row
            if row.is_ok:
                self._ok.add(place)

    def _is_ok(self, index: int) -> bool:
        return all((index, n) in self._ok for n in range(len(self.submission.groups[index])))

    def _close(self, index: int, end: Ended | None) -> None:
        """Give the cells of an array task that ended the rows that they lack."""
        end = end or Ended("")
        by_slurm = self.submission.end_by_slurm(index)
        status, message = by_slurm
        has_no_files = end.exit_code == NO_FILES
        if has_no_files:
            status, message = "interrupted", "its files could not be read or written"
        elif status != "oom":  # which Slurm calls FAILED if no control group limits memory
            status, message = _ENDS.get(end.state, by_slurm)
        output = last_error(self.submission.output(index))
        if output and (has_no_files or status == "crashed"):
            message = f"{message}: {output}"
        began = False
        for number in range(len(self.submission.groups[index])):
            began |= (index, number) in self._ok or self.submission.close_all(
                index, number, status or "interrupted", message or _UNKNOWN
            )
        if began:
            return
        why = _UNSEEN.get(end.exit_code, message or "no longer in the queue")
        self.not_run[index] = why, end.node if end.exit_code and not has_no_files else ""
