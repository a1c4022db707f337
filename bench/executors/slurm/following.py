"""A submission that is followed until all its array tasks have ended and all rows are collected."""

from collections import defaultdict
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Final

from bench.common.messages import last_error
from bench.executors.slurm.commands import TEXTS, Ended, ended
from bench.executors.slurm.options import CHANGES_FOLDER, NO_FILES, NO_PYTHON
from bench.executors.slurm.submission import Submission, TaskAttempt
from bench.launch.attempt import Attempt
from bench.plan.rows import Row

_ENDS: Final[dict[str, tuple[str, str]]] = TEXTS["ended"]
"""Status and message of a cell whose array task ended without a row, by Slurm's state."""
_UNSEEN: Final = {
    CHANGES_FOLDER: "its node does not see the folder of the command",
    NO_PYTHON: "its node does not see the Python of the command",
}
_UNKNOWN: Final = "its array task is gone, and Slurm does not say why"


Key = tuple[str, int]  # `bench.plan.planning.Planned.key`


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
