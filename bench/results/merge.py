"""Unite files of results, such as those of the shards of a grid, with all that is next to them.

That is rows, folders of cells, outcomes, facts on the data, costs of exported models, and plans.
What several files have is taken once; of two measurements of one cell both stay, the later one as
another attempt. A file that --to names already is extended. The files that are read stay as they
are.

Examples:
  python -m bench.merge shard-0/runs.csv shard-1/runs.csv shard-2/runs.csv --to runs.csv
  python -m bench.merge */runs.csv --to all.csv --json
"""

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Final

import click
from filelock import FileLock
from pydantic import BaseModel

from bench.common.command import FILE, described
from bench.common.errors import DiskFullError, InputError, reading
from bench.common.files import LARGEST_WEIGHTS, exists, sync, sync_tree, write_atomically
from bench.common.messages import command_line, echo, some_of
from bench.common.progress import note_to_stderr
from bench.plan.columns import NAMES
from bench.plan.rows import CellKey, Row
from bench.plan.shards import Shard
from bench.results.datafile import DataFile
from bench.results.exports import EXPORTS, read_exports
from bench.results.facts import FACTS, read_facts
from bench.results.origins import folder_of
from bench.results.outcomes import (
    Outcome,
    outcome_key,
    outcomes_file,
    read_outcomes,
    write_outcomes,
)
from bench.results.rebuild import rows_in_folders
from bench.results.row import keep_row, kept_row
from bench.results.rowfile import Reading, encode, record, torn_line
from bench.results.store import LOCK_TIMEOUT_S, cells_folder, read_plan, write_plan
from minbert.files import is_file


class Shards(BaseModel, extra="forbid", frozen=True):
    """The shards of a plan that have begun, of `count`; in `runs.shards.json`, by
    `Division.plan`."""

    count: int
    begun: tuple[int, ...]

    def __add__(self, other: "Shards | None") -> "Shards":
        more = () if other is None else other.begun
        return Shards(count=self.count, begun=tuple(sorted({*self.begun, *more})))

    @property
    def missing(self) -> list[str]:
        return [f"{i}/{self.count}" for i in range(self.count) if i not in self.begun]


SHARDS: Final = DataFile(".shards.json", Shards, "which shards of a plan have run")


def keep_shard(runs: Path, plan: str, shard: Shard) -> None:
    own = Shards(count=shard.count, begun=(shard.index,))
    SHARDS.update(runs, plan, lambda known: own + known)


def merged_shards(
    files: Mapping[Path, Mapping[str, Shards]],
) -> tuple[dict[str, Shards], list[str]]:
    """The shards in some files together, and lines on plans of which some are missing. InputError
    for files with parts of plans, none of which is in all of them."""
    every: dict[str, Shards] = {}
    for plans in files.values():
        for plan, shards in plans.items():
            every[plan] = shards + every.get(plan)
    missing = {plan: shards.missing for plan, shards in every.items() if shards.missing}
    common, first = set(missing), Path()
    for path, plans in files.items():
        if missing.keys() & plans.keys() and not common & plans.keys():
            raise InputError(
                f"{path}: has shards of another plan than {first}, and neither plan is whole; "
                "rerun the shards whose printed plan differs, or unite the shards of each first"
            )
        if missing.keys() & plans.keys():
            common, first = common & plans.keys(), path
    notes = [f"plan {plan}: shards {some_of(of, 9)} are missing" for plan, of in missing.items()]
    return every, notes


_ASIDE: Final = ".merging"
"""The folder, among those of cells, in which some are copied before they get their places."""
_TURN: Final = "merging.lock"
"""The lock, among the folders of cells, of the one merge that may copy some there."""


@described(__doc__)
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@click.option("--to", "path", type=FILE, required=True, help="The file to make or to extend.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def main(files: Sequence[Path], path: Path, as_json: bool) -> int:
    for file in files:
        if not is_file(file):
            raise InputError(f"{file}: no such file of results")
    if os.path.lexists(path) and not is_file(path):
        raise InputError(f"{path}: is no file; name another with --to")
    others = {os.path.realpath(file): file for file in files}
    others.pop(os.path.realpath(path), None)
    try:
        counts, notes = merge([*others.values()], path)
    except OSError as error:  # the lock's Timeout is one
        raise DiskFullError(
            f"{path}: stopped ({error.strerror or error}); the same command goes on"
        ) from error
    note_to_stderr(*notes)
    summary = "{rows} rows in {path}: {new} new, {renumbered} of them as further attempts"
    echo(json.dumps(counts) if as_json else summary.format(path=path, **counts))
    if not as_json:
        echo(f"for the report: {command_line('report', '--runs', str(path))}")
    return 0


@dataclass
class _Source:
    """A file of results, read whole: its rows, also those that only a folder has, and the rest."""

    path: Path
    rows: list[Row] = field(default_factory=list)
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    shards: Mapping[str, Shards] = field(default_factory=dict)
    plan: Sequence[Row] = ()


def _read(path: Path, notes: list[str]) -> _Source:
    """InputError for a file that can't be read, or is of another schema."""
    file = Reading(path)
    file.read_on()
    if file.torn:
        notes.append(torn_line(path))
    rows = [*file.rows, *rows_in_folders(path, file.rows)]
    with reading(outcomes_file(path)):
        outcomes = read_outcomes(outcomes_file(path))
    return _Source(path, rows, outcomes, SHARDS.read(path), read_plan(path))


def merge(paths: Sequence[Path], to: Path) -> tuple[dict[str, int], list[str]]:
    """Extend a file by others; returns numbers of rows, and notes. Folders are copied first, while
    grids may append to the file, whose lock is held for the rest. Rows are written last, so that
    each has what belongs to it; stopped anywhere, it can be called again. InputError for files that
    can't be united, before anything is written. OSError if the disk is full."""
    notes: list[str] = []
    others = [_read(path, notes) for path in paths]
    united = _United(to, others)
    aside = cells_folder(to) / _ASIDE
    aside.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(aside.with_name(_TURN)):
        with suppress(FileNotFoundError):  # of a merge that was stopped
            shutil.rmtree(aside)
        for _ in united.copies(aside):
            pass
        with FileLock(f"{to}.lock", timeout=LOCK_TIMEOUT_S):
            united = _United(to, others)  # with the rows that were added meanwhile
            counts = united.write(aside)
        shutil.rmtree(aside, ignore_errors=True)
    return counts, [*notes, *united.notes]


class _United:
    """A file and others as one, before anything is written. InputError if they can't be united."""

    def __init__(self, to: Path, others: Sequence[_Source]) -> None:
        self.notes: list[str] = []
        self._to, self._own = to, _read(to, self.notes)
        self._sources = [self._own, *others]
        paths = [*(source.path for source in others), to]
        self._facts, self._exports = read_facts(*paths), read_exports(*paths)
        shards = {source.path: source.shards for source in self._sources}
        self._shards, missing = merged_shards(shards)
        self.notes += missing
        self._rows = _Rows(self._own.rows, to)
        self._outcomes = outcomes = dict(self._own.outcomes)
        self._folders: list[tuple[Path, Path, Row, Row]] = []
        placed = self._rows.placed([source.rows for source in others])
        for source, news in zip(others, placed, strict=True):
            by_prefix = {}
            for row, new in zip(source.rows, news, strict=True):
                self._folders.append((folder_of(source.path, row), folder_of(to, new), row, new))
                by_prefix[_prefix(row)] = _prefix(new)
            for key, outcome in source.outcomes.items():
                prefix, _, part = key.rpartition("/")
                if (new_prefix := by_prefix.get(prefix)) and new_prefix not in self._rows.before:
                    outcomes[f"{new_prefix}/{part}"] = outcome
                else:
                    outcomes.setdefault(f"{new_prefix or prefix}/{part}", outcome)

    def copies(self, aside: Path) -> Iterator[tuple[Path, Path]]:
        """The copies of folders that the merged file lacks, made unless they are in the folder
        `aside` already, each with its place; in a copy, links are left out."""
        for number, (source, place, row, new) in enumerate(self._folders):
            if exists(place) or not exists(source):
                continue
            own, copy = kept_row(source), aside / str(number)
            if own and (own.code_version, own.started_at) != (row.code_version, row.started_at):
                continue  # of another version's row with the same number
            if not exists(copy):
                shutil.copytree(source, copy, ignore=_no_files)
                sync_tree(copy)
            kept = kept_row(copy)
            if kept is None or kept.attempt != new.attempt:
                keep_row(copy, new)  # also so that a merge that goes on knows whose it is
            yield copy, place

    def write(self, aside: Path) -> dict[str, int]:
        """Write everything; returns numbers of rows."""
        to, own, rows = self._to, self._own, self._rows
        if self._outcomes:
            try:
                write_outcomes(outcomes_file(to), self._outcomes)
            except ValueError as error:
                raise InputError(f"{outcomes_file(to)}: {error}") from error
        for copy, place in self.copies(aside):
            copy.rename(place)
        sync(aside.parent)
        sync(aside.parent.parent)
        FACTS.write(to, self._facts)
        EXPORTS.write(to, self._exports)
        SHARDS.write(to, self._shards)
        plan: dict[CellKey, Row] = {}
        for source in self._sources:
            plan |= {row.key: row for row in source.plan if row.key not in plan}
        if plan:
            write_plan(to, plan.values())
        every = [*own.rows, *sorted(rows.new, key=_time)]
        content = record(NAMES) + b"".join(map(encode, every))
        write_atomically(to.resolve(), content)  # it may be a link
        return {"rows": len(every), "new": len(rows.new), "renumbered": rows.moved}


class _Rows:
    """The rows of the merged file, to which those of others are added, each measurement once."""

    def __init__(self, rows: Sequence[Row], path: Path) -> None:
        self._path = path
        self.new: list[Row] = []
        self.moved = 0
        self._attempts: dict[bytes, list[int]] = defaultdict(list)  # by content without attempt
        self._taken: dict[CellKey, set[int]] = defaultdict(set)
        for row in rows:
            self._add(row)
        self.before = set(map(_prefix, rows))

    def _add(self, row: Row) -> None:
        self._attempts[_content(row)].append(row.attempt)
        self._taken[row.key].add(row.attempt)

    def _added(self, row: Row) -> Row:
        new, taken = row, self._taken[row.key]
        while new.attempt in taken or self._is_anothers(new):
            new = replace(new, attempt=max({*taken, new.attempt}) + 1)
        self.moved += new is not row
        self._add(new)
        self.new.append(new)
        return new

    def _is_anothers(self, row: Row) -> bool:
        """Whether a run that has no row yet, such as a killed one, has the row's folder."""
        folder = folder_of(self._path, row)
        kept = kept_row(folder)
        return exists(folder) and (kept is None or encode(kept) != encode(row))

    def placed(self, files: Sequence[Sequence[Row]]) -> list[list[Row]]:
        """The rows of files with their attempts in the merged one, in the order of time, whichever
        file is named first; each counts as another measurement, even if it looks the same as one
        before it in its file."""
        result = [[*rows] for rows in files]
        seen: dict[tuple[int, bytes], set[int]] = defaultdict(set)
        order = sorted(
            (_time(row), row.attempt, encode(row), i, j)
            for i, rows in enumerate(files)
            for j, row in enumerate(rows)
        )
        for *_, i, j in order:
            row, content = files[i][j], _content(files[i][j])
            same = [n for n in self._attempts[content] if n not in seen[i, content]]
            if same:
                new = replace(row, attempt=row.attempt if row.attempt in same else same[0])
            else:
                new = self._added(row)
            seen[i, content].add(new.attempt)
            result[i][j] = new
        return result


def _time(row: Row) -> str:
    return row.finished_at or row.started_at or ""


def _prefix(row: Row) -> str:
    """The beginning of the names of a row's outcomes."""
    return outcome_key(row, "").rpartition("/")[0]


def _content(row: Row) -> bytes:
    return encode(replace(row, attempt=1))


def _no_files(folder: str, names: list[str]) -> list[str]:
    """The links, pipes and devices of a folder. InputError for a file too large for a cell's."""
    every = {name: os.lstat(os.path.join(folder, name)) for name in names}  # noqa: PTH118
    for name, status in every.items():
        if status.st_size > LARGEST_WEIGHTS:
            raise InputError(f"{folder}/{name}: is larger than any file of a cell; remove it")
    return [n for n, of in every.items() if not (S_ISREG(of.st_mode) or S_ISDIR(of.st_mode))]
