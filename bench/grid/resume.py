"""Going on after a run that was stopped: what it left, and the command that continues it."""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.launch.runner import Outcome
from bench.plan import job as jobs
from bench.plan.cell import Row
from bench.plan.job import Job
from bench.plan.planning import RERUN, Planned
from bench.results.protocol import LONGEST_RESULT, RESULT, parse_result

LEFT_OUT: Final = "left out"
"""Stands for `skipped` where that was for a budget."""
_GO_ON: Final = ("not run", "interrupted", LEFT_OUT)
"""Statuses of cells that run when the same command is given again."""


def how_to_go_on(
    arguments: Sequence[str], counts: Mapping[str, int] | None = None, *, fell_back: int = 0
) -> list[str]:
    """Lines with the command for cells that have not run, and those for each way of failing.

    Args:
        arguments: the grid's.
        counts: cells of each status, `not run` and `LEFT_OUT` too; None if nobody has looked.
        fell_back: cells as of `fallen_back`.
    """
    lines = []
    if fell_back:
        lines.append(f"{fell_back} cells did not end ok this time: their older results count\n")
    if fell_back or counts is None or any(counts.get(status) for status in _GO_ON):
        lines.append(f"to go on: {_command(arguments)}\n")
    for status in sorted((counts or {}).keys() - {"ok", *_GO_ON}):
        again = _command([*_without_rerun(arguments), RERUN, status])
        lines.append(f"to run again what ended {status}: {again}\n")
    return lines


def _command(arguments: Sequence[str]) -> str:
    return shlex.join(["python", "-m", "bench.grid", *arguments])


def _without_rerun(arguments: Sequence[str]) -> list[str]:
    """A grid's arguments without --rerun and what it names."""
    kept: list[str] = []
    for argument in arguments:
        if kept and kept[-1] == RERUN:
            kept.pop()
        elif not argument.startswith(f"{RERUN}="):
            kept.append(argument)
    return kept


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


def statuses(planned: Iterable[Planned], last: Mapping[tuple[str, int], Row]) -> Counter[str]:
    """How many cells of a plan have ended in each way, or `not run`.

    Args:
        last: as that of `fallen_back`.
    """
    found = {item.key: item.elsewhere for item in planned}
    return Counter(
        "ok" if elsewhere else str(last[key]["status"]) if key in last else "not run"
        for key, elsewhere in found.items()
    )


def fallen_back(planned: Iterable[Planned], last: Mapping[tuple[str, int], Row]) -> int:
    """How many cells that are ok were to run again and did not end ok this time.

    Args:
        last: the row that each stands at, by `Planned.key`.
    """
    return sum(
        last[item.key]["status"] == "ok" and int(last[item.key]["attempt"] or 0) < item.attempt
        for item in planned
        if item.action == "run" and item.key in last
    )


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
