"""runs.csv, which has one writer at a time, and the folders of its cells next to it.

Rows are appended under a lock, and are durable when the append returns. A crash can leave one torn
record at the end, the header too: readers leave it out, and the next writer cuts it off.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from bench.common.errors import DiskFullError, InputError, writing
from bench.common.files import (
    below,
    exists,
    no_link,
    read_file,
    sync,
    try_to_make,
    try_to_write,
    write_atomically,
)
from bench.plan.cell import Cell, Columns, Value
from bench.plan.columns import NAMES, row_of, values_of
from bench.plan.pruning import memory_key
from bench.plan.rows import Row, current_rows, software_of
from bench.results.rowfile import Reading, encode, record
from bench.results.rowfile import read_rows as read_rows

LOCK_TIMEOUT_S: Final = 60
"""An append takes milliseconds: a lock that is held for longer belongs to a process that hangs."""


def cells_folder(path: Path) -> Path:
    """The folder of all cells of a CSV: `runs/` next to `runs.csv`. InputError if it is a link."""
    return no_link(path.with_suffix("") if path.suffix else path.with_name(f"{path.name}-cells"))


def cell_folder(
    path: Path, name: str, cell_id: str, conditions_id: str, repeat: int, attempt: int
) -> Path:
    """The folder of one attempt at a repeat of a cell; its name omits the first repeat. InputError
    as of `below`."""
    suffix = f"-r{repeat}" if repeat > 1 else ""
    return below(cells_folder(path), f"{name}-{cell_id}-{conditions_id}{suffix}-{attempt}")


def plan_file(path: Path) -> Path:
    return cells_folder(path) / "plan.json"


def read_plan(path: Path) -> list[Row]:
    """The rows, still without results, of the cells that were planned last; none for a plan that
    can't be read, as it only shows which results are missing."""
    try:
        planned = json.loads(read_file(plan_file(path)))
        rows = [row_of({name: values.get(name) for name in NAMES}) for values in planned]
        for row in rows:
            encode(replace(row, attempt=1, status="ok"))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return []
    return rows


def write_plan(path: Path, planned: Iterable[Row]) -> None:
    """Write the rows, without results, of planned cells. OSError if they can't be written."""
    known = [{n: v for n, v in values_of(row).items() if v is not None} for row in planned]
    lines = ",\n".join(map(json.dumps, known))
    plan_file(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(plan_file(path), f"[{lines}]\n".encode())


class Store:
    """A runs.csv to append to, by `version` the code_version whose rows count as done; None: those
    of all do. Each access reads only the rows that were added since the last; all raise InputError
    as `read_rows`."""

    def __init__(self, path: Path, version: str | None = None) -> None:
        self.path = path
        self._version = version
        self._reading = Reading(path)
        self._index([])

    def _index(self, rows: list[Row]) -> None:
        self._indexed, self._seen = rows, 0
        self._by_cell: dict[str, list[Row]] = {}
        self._out_of_memory: dict[tuple[Value, ...], list[Row]] = {}

    @property
    def rows(self) -> list[Row]:
        self._reading.read_on()
        return self._reading.rows

    def _of_cell(self, cell_id: str) -> list[Row]:
        rows = self.rows
        if rows is not self._indexed:
            self._index(rows)
        for row in rows[self._seen :]:
            self._by_cell.setdefault(row.cell_id, []).append(row)
            if row.status == "oom":
                kind = memory_key(row, row.conditions_id)
                self._out_of_memory.setdefault(kind, []).append(row)
        self._seen = len(rows)
        return self._by_cell.get(cell_id, [])

    def _counts(self, row: Row) -> bool:
        return self._version in (None, row.code_version)

    def last(self, cell_id: str, conditions_id: str, repeat: int = 1) -> Row | None:
        key = cell_id, conditions_id, repeat
        return current_rows(filter(self._counts, self._of_cell(cell_id))).get(key)

    def scored(self, cell_id: str, here: Columns) -> Row | None:
        """A cell's current row under the conditions here, or, if it has no score, one with a score
        from another machine of the same software."""
        own = self.last(cell_id, str(here["conditions_id"]))
        if own is not None and own.has_score:
            return own
        others = (row for row in reversed(self._of_cell(cell_id)) if self._counts(row))
        software = software_of(here)
        return next((row for row in others if row.has_score and row.software == software), own)

    def out_of_memory(self, cell: Cell, conditions_id: str) -> list[Row]:
        """The current rows with status `oom` of cells that agree with one in `memory_key`."""
        self._of_cell(cell.cell_id)
        alike = self._out_of_memory.get(memory_key(cell, conditions_id), [])
        return [row for row in alike if self.last(*row.key) is row]

    @property
    def torn(self) -> bool:
        return self._reading.torn

    def next_attempt(self, cell_id: str, conditions_id: str, repeat: int = 1) -> int:
        key = cell_id, conditions_id, repeat
        return 1 + max((row.attempt for row in self._of_cell(cell_id) if row.key == key), default=0)

    def highest_attempt(self, cell_id: str, repeat: int = 1) -> int:
        """The highest attempt at a repeat of a cell under any conditions; 0 without any."""
        rows = self._of_cell(cell_id)
        return max((row.attempt for row in rows if row.repeat == repeat), default=0)

    def append(self, *rows: Row) -> None:
        """Add rows, which are durable on return; but not those that are there already, since
        another command has found them in their folders. ValueError for a row that could not be read
        again, DiskFullError if the file can't be written; it then has the rows that it had."""
        lines = {encode(row): row for row in rows}
        if not lines:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock", timeout=LOCK_TIMEOUT_S):
                self._append(lines)
        except OSError as error:
            reason = error.strerror or str(error)
            if isinstance(error, Timeout):
                reason = f"another process has held {self.path.name}.lock for {LOCK_TIMEOUT_S} s"
            raise DiskFullError(f"{self.path}: can't be written ({reason})") from error

    def _append(self, lines: Mapping[bytes, Row]) -> None:
        new = [line for line, row in lines.items() if not self._has(row, line)]
        try:  # without asking first whether it is there
            opened = self.path.open("r+b", buffering=0)
        except FileNotFoundError:
            opened = self.path.open("x+b", buffering=0)
        with opened as file:
            if self._reading.torn:
                file.truncate(self._reading.end)
            end = file.seek(0, os.SEEK_END)
            try:
                left = memoryview(b"".join(new if end else [record(NAMES), *new]))
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(end)
                raise
        if not end:
            sync(self.path.parent)

    def _has(self, row: Row, line: bytes) -> bool:
        return any(encode(other) == line for other in self._of_cell(row.cell_id))

    def check_writable(self) -> None:
        """Raise InputError unless rows can be appended and folders of cells be made: it tries to
        write, without leaving a trace, because permissions do not restrict root."""
        folder, lock = cells_folder(self.path), Path(f"{self.path}.lock")
        with writing(self.path, "; name another place with --runs", InputError):
            self._reading.read_on()  # refuses what is no file
            try_to_make(self.path.parent)
            for path in filter(os.path.lexists, (lock, self.path)):
                path.open("r+b").close()
            if exists(folder):
                try_to_write(folder)
