"""The folder of a submission: one job array, what its array tasks run, and the rows they publish.

    runs/slurm/<submission>/
      request.json     what was asked for
      cells.jsonl      a line for each array task: the runs of its cells, one after the other
      script.sh        the job script
      job.json         the id of the job; missing if the command ended while it submitted it
      output/<index>.txt                            what the array task printed
      starts/<index>-<number>-<restart>.json        an attempt that began, or never will
      starts/<index>-<number>-closed.json           no further attempt may begin
      rows/<index>-<number>-<restart>.json          its row
      done             all array tasks have ended, and all rows are in runs.csv

`index` is the array task's, `number` the cell's within it, `restart` how often Slurm has restarted
the job: together they are an attempt. Files in starts/ and rows/ are published by `os.link`, which
fails on every file system if the name exists, whichever node tries. So an attempt begins once, and
has one row. Whoever finds that an attempt has ended closes it: with a row, or, if it never began,
with an empty start. A process that still works on it, on a node that had lost its network, then
can't begin or publish any more. Once an array task has left Slurm's queue, its cells can't be
started again either: a controller that crashed may forget that it ended them.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from io import TextIOWrapper
from itertools import count, islice
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from pydantic import TypeAdapter

from bench.common.errors import InputError, reading
from bench.common.files import (
    LARGEST_TENSORS,
    read_file,
    sync,
    text_or_empty,
    write_atomically,
)
from bench.executors.slurm.commands import TEXTS
from bench.launch.attempt import Attempt, keep, outcome_row
from bench.launch.runner import WorkerEnd, utc
from bench.machine.conditions import Target
from bench.plan.rows import Row
from bench.results.protocol import ROW
from bench.results.row import read_row, row_to_json
from bench.results.store import cells_folder
from minbert.files import open_regular

DONE: Final = "done"
_REQUEST: Final = "request.json"
_CELLS: Final = "cells.jsonl"
_SCRIPT: Final = "script.sh"
_JOB: Final = "job.json"
TARGET: Final = TypeAdapter(Target)  # a device and its conditions, as JSON and back
_TAIL: Final = 2**16
_ENDED_BY_SLURM: Final = re.compile(r"\*\*\* \w+ \S+ ON \S+ CANCELLED AT \S+(.*?) \*\*\*")
_REASONS: Final[dict[str, tuple[str, str]]] = TEXTS["reasons"]
"""Status and message by the reason in the line that Slurm adds to a job's output."""
_MEMORY_LIMIT: Final = re.compile(r"^slurmstepd\S* error: .*exceeded.* memory limit", re.I | re.M)
"""The line of Slurm's own limit, where no control groups limit the memory of jobs."""


def submissions_folder(runs: Path) -> Path:
    """The folder of all submissions, inside that of the cells of a CSV."""
    return cells_folder(runs) / "slurm"


@dataclass(frozen=True)
class TaskAttempt:
    """An attempt of an array task at a cell."""

    index: int
    number: int
    restart: int

    @property
    def file(self) -> str:
        return f"{self.index}-{self.number}-{self.restart}.json"

    @classmethod
    def of_file(cls, name: str) -> "TaskAttempt | None":
        """The attempt of a file; None for another file."""
        with suppress(ValueError):
            index, number, restart = map(int, name.removesuffix(".json").split("-"))
            return cls(index, number, restart)
        return None


@dataclass(frozen=True)
class Start:
    """The beginning of an attempt: on which node, under which conditions, when (UTC)."""

    node: str
    target: Target
    started_at: str


_START: Final = TypeAdapter(Start)
_NEVER: Final = b"{}"  # the start of an attempt that never began


@dataclass(frozen=True)
class Submission:
    """A submission by its folder. Methods raise InputError for files that can't be read, OSError
    for those that can't be written."""

    folder: Path

    @classmethod
    def create(
        cls, folder: Path, request: dict[str, Any], groups: Sequence[Sequence[Attempt]], script: str
    ) -> "Submission":
        for name in ("starts", "rows", "output"):
            (folder / name).mkdir(parents=True)
        lines = (f"{json.dumps([run.values() for run in group])}\n" for group in groups)
        write_atomically(folder / _CELLS, "".join(lines).encode())
        write_atomically(folder / _SCRIPT, script.encode())
        write_atomically(folder / _REQUEST, json.dumps(request, indent=1).encode() + b"\n")
        return cls(folder)

    @property
    def name(self) -> str:
        return f"bench-{self.folder.name}"

    @property
    def script(self) -> Path:
        return self.folder / _SCRIPT

    @property
    def rows(self) -> Path:
        return self.folder / "rows"

    @cached_property
    def request(self) -> dict[str, Any]:
        return dict(self._json(_REQUEST))

    @property
    def job(self) -> int | None:
        try:
            return int(self._json(_JOB)["job"])
        except InputError:
            return None

    def keep_job(self, job: int) -> None:
        write_atomically(self.folder / _JOB, json.dumps({"job": job}).encode() + b"\n")

    def output(self, index: int) -> str:
        """The end of what an array task printed, with Slurm's own lines."""
        path = self.folder / "output" / f"{index}.txt"
        return text_or_empty(path)[-_TAIL:]

    def end_by_slurm(self, index: int) -> tuple[str, str]:
        """Status and message of a cell whose job Slurm ended, by Slurm's last line on it; both are
        empty without one."""
        parts = _ENDED_BY_SLURM.split(self.output(index))  # text, reason, text, reason … text
        if _MEMORY_LIMIT.search("".join([*parts[-3:-2], parts[-1]])):
            return "oom", "its job exceeded the memory that it asked for (mem= of --slurm)"
        if len(parts) == 1:
            return "", ""
        other = "interrupted", f"its job was ended{parts[-2].lower()}"
        status, message = _REASONS.get(parts[-2], other)
        return status, message

    @cached_property
    def groups(self) -> list[list[Attempt]]:
        return list(self._read())

    def group(self, index: int) -> list[Attempt]:
        for group in self._read(index, index + 1):
            return group
        raise InputError(f"{self.folder / _CELLS}: has no line {index + 1}")

    def _read(self, first: int = 0, end: int | None = None) -> Iterator[list[Attempt]]:
        path = self.folder / _CELLS
        try:
            cells = open_regular(path, LARGEST_TENSORS, follow=False)
            with TextIOWrapper(cells, "utf-8") as file:
                for line in islice(file, first, end):
                    yield list(map(Attempt.from_values, json.loads(line)))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: {error}") from error

    def _json(self, name: str) -> Any:
        path = self.folder / name
        with reading(path, RecursionError):
            return json.loads(read_file(path))

    def runs_csv(self) -> Path:
        return Path(self.request["runs"])

    def run(self, attempt: TaskAttempt, planned: Attempt, target: Target) -> Attempt:
        """The run of an attempt where it runs, before it has a row: a restart is a further attempt.
        It follows those that have rows there: the planner does not know all if `amp` on or
        `compile` auto make another cell of it, on a kind of node that is new to it."""
        run = planned.on(target)
        for number in count(planned.job.attempt + attempt.restart):
            run = replace(run, job=replace(run.job, attempt=number))
            if not (run.folder(self.runs_csv()) / ROW).exists():
                break
        return run

    # Publishing

    def begin(self, attempt: TaskAttempt, start: Start) -> bool:
        """Publish that an attempt begins; false if it has begun already, or is closed."""
        begins = publish(self.folder / "starts" / attempt.file, _START.dump_json(start))
        # looked at last: whoever closes the cell writes this first, and then sees the attempt
        return begins and not self._end_of(attempt.index, attempt.number).exists()

    def publish_row(self, attempt: TaskAttempt, row: Row, folder: Path) -> bool:
        """Publish the row of an attempt and keep it in the cell's folder; false if it is closed."""
        if not publish(self.rows / attempt.file, row_to_json(row)):
            return False
        keep(folder, row)
        return True

    def row(self, attempt: TaskAttempt) -> Row | None:
        with suppress(OSError):  # it is asked again
            return read_row(self.rows / attempt.file)
        return None

    def close(
        self, attempt: TaskAttempt, planned: Attempt, status: str, message: str
    ) -> Row | None:
        """The row of an attempt at a planned run on which nobody works any more, with this status
        and message unless it has published one; None if it never began."""
        if self._never_began(attempt):
            return None
        return self._closed(attempt, planned, status, message)

    def close_all(self, index: int, number: int, status: str, message: str) -> bool:
        """Close a cell, after the end of its array task; false if no attempt at it began."""
        publish(self._end_of(index, number), _NEVER)
        began = False
        for restart in count():
            attempt = TaskAttempt(index, number, restart)
            if self._never_began(attempt):
                break
            row = self._closed(attempt, self.groups[index][number], status, message)
            began = began or row is not None
            if row is not None and row.is_ok:
                break
        return began

    def _end_of(self, index: int, number: int) -> Path:
        """The file that keeps further attempts at a cell from beginning."""
        return self.folder / "starts" / f"{index}-{number}-closed.json"

    def _never_began(self, attempt: TaskAttempt) -> bool:
        """Whether an attempt has not begun until now; then it never will."""
        return publish(self.folder / "starts" / attempt.file, _NEVER)

    def _closed(
        self, attempt: TaskAttempt, planned: Attempt, status: str, message: str
    ) -> Row | None:
        """The row of an attempt that began; None if it was closed before it could."""
        start = _start(self.folder / "starts" / attempt.file)
        if start is None or (row := self.row(attempt)) is not None:
            return None if start is None else row
        run = self.run(attempt, planned, start.target)
        folder = run.folder(self.runs_csv())
        outcome = WorkerEnd(
            status=status, message=message, wall_s=None, started_at=start.started_at,
            finished_at=max(start.started_at, utc(datetime.now(UTC))),
        )  # fmt: skip
        row = outcome_row(run, start.target, outcome, folder)
        return row if self.publish_row(attempt, row, folder) else self.row(attempt)


def _start(path: Path) -> Start | None:
    """A start; None for that of an attempt which never began."""
    with reading(path):
        text = read_file(path)
        return None if text == _NEVER else _START.validate_json(text)


def publish(path: Path, data: bytes) -> bool:
    """Write a file unless its name exists; false if it does. It is durable on return. OSError if it
    can't be written."""
    temporary = path.with_name(f".{path.name}.{token_hex(8)}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        # a network file system may repeat a call whose answer was lost
        if temporary.stat().st_nlink < 2:
            return False
    finally:
        temporary.unlink()
    sync(path.parent)
    return True


def submissions(runs: Path) -> Iterator[Submission]:
    """The submissions of a CSV that are not done, oldest first."""
    folder = submissions_folder(runs)
    for place in sorted(folder.resolve().iterdir()) if folder.exists() else ():
        has_both = (place / _CELLS).exists() and (place / _REQUEST).exists()
        if has_both and not (place / DONE).exists():
            yield Submission(place)
