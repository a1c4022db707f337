"""Going on after a run that was stopped: what it left, and the command that continues it."""

import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench import job as jobs
from bench.job import Job
from bench.plan import Planned
from bench.protocol import LONGEST_RESULT, RESULT, parse_result
from bench.runner import Outcome
from bench.schema import Row, cell_key, latest, row_key

LEFT_OUT: Final = "left out"
"""Stands for `skipped` where that was for a budget."""
_GO_ON: Final = ("not run", "interrupted", LEFT_OUT)
"""Statuses of cells that run when the same command is given again."""


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


def how_to_go_on(
    arguments: Sequence[str], counts: Mapping[str, int] | None = None, *, fell_back: int = 0
) -> list[str]:
    """Lines with the command for cells that have not run, and those for each way of failing.

    Args:
        arguments: the grid's.
        counts: cells of each status, `not run` and `LEFT_OUT` too; None if nobody has looked.
        fell_back: cells as of `fallen_back`.
    """
    command = ["python", "-m", "bench.grid", *arguments]
    plain = ["python", "-m", "bench.grid", *without_repeats(arguments)]
    lines = []
    if counts is None or any(counts.get(status) for status in _GO_ON):
        lines.append(f"to go on: {shlex.join(plain)}\n")
        if plain != command:
            lines.append(f"to begin again, older results too: {shlex.join(command)}\n")
    if fell_back:
        lines.append(f"{fell_back} cells did not end ok this time: their older results count\n")
        lines.append(f"to begin again, older results too: {shlex.join(command)}\n")
    for status in sorted((counts or {}).keys() - {"ok", *_GO_ON}):
        again = shlex.join([*plain, "--rerun", status])
        lines.append(f"to run again what ended {status}: {again}\n")
    return lines


def to_run_again(
    counts: Mapping[str, int], planned: Sequence[Planned], left_out: int = 0
) -> Counter[str]:
    """Counts of statuses, with those of a search's tries for the cells that it left without rates.

    Running such a cell again takes running its tries again.

    Args:
        left_out: how many of those that were skipped were left out for a budget.
    """
    lacking = [item for item in planned if item.tries]
    found = Counter(counts)
    found["skipped"] -= len(lacking) + left_out
    found[LEFT_OUT] += left_out
    found.update(status for item in lacking for status in item.tries)
    return +found


def standing(cell_ids: Collection[str], conditions_id: str, rows: Iterable[Row]) -> dict[str, Row]:
    """The row that counts for each of some cells that has one, by its id."""
    return {
        cell_id: row
        for (cell_id, where, *_), row in latest(rows).items()
        if cell_id in cell_ids and where == conditions_id
    }


def fallen_back(planned: Iterable[Planned], conditions_id: str, rows: Sequence[Row]) -> int:
    """How many cells that a plan runs again failed this time, while an older attempt is ok."""
    tried = {
        (item.cell.cell_id, conditions_id, item.attempt) for item in planned if item.action == "run"
    }
    counting = {key[:2]: row for key, row in latest(rows).items()}
    failed = [row for row in rows if row["status"] != "ok" and row_key(row) in tried]
    return sum(counting[cell_key(row)]["status"] == "ok" for row in failed)


def left_behind(folder: Path, job: Job) -> Outcome | None:
    """What a worker finished whose parent died before it could write the row.

    It counts for the very same job only, the version of the code included. How long the whole took
    nobody has measured then; the files say when it began and ended, as far as the clock did not
    jump between.
    """
    path = folder / RESULT
    try:
        if not path.is_file() or path.stat().st_size > LONGEST_RESULT:
            return None
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
        for moment in (begun, max(begun, ended))
    )
    return Outcome(
        status="ok",
        message="",
        wall_s=None,
        started_at=started_at,
        finished_at=finished_at,
        result=result,
    )
