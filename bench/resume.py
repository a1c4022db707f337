"""Going on after a run that was stopped: what it left, and the command that continues it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import job as jobs
from bench.job import Job
from bench.protocol import LONGEST_RESULT, RESULT, parse_result
from bench.runner import Outcome


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
