"""The process of an array task on a node: it runs its cells in order and publishes their rows.

`python -m bench.executors.slurm.node SUBMISSION [WORKER…]`, started by the script of a submission.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.common.errors import DiskFullError, InputError
from bench.common.files import write_atomically
from bench.common.messages import echo
from bench.executors.slurm import commands
from bench.executors.slurm.options import NO_FILES
from bench.executors.slurm.submission import TARGET, Start, Submission, TaskAttempt
from bench.launch.attempt import WORKER, Attempt, run_cell
from bench.launch.runner import WorkerEnd, utc
from bench.launch.signals import Signals
from bench.machine.conditions import Target, find_conditions
from bench.plan.rows import RESUMED, Row

MARGIN_S: Final = 30.0
"""A cell is ended so many seconds before Slurm ends its job, so that it has a row; in a job of less
than two minutes, at three quarters of its time."""
_PATIENCE_S: Final = 2.0
"""The most seconds between the signal to a worker, the one to this process and Slurm's reason."""
_SHARED: Final = "part of a node"


def main(folder: Path, worker: tuple[str, ...] = WORKER) -> int:
    """Run the cells of the array task that the environment names; returns the exit code."""
    submission = Submission(folder)
    index = int(os.environ["SLURM_ARRAY_TASK_ID"])
    restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    limit = time_limit(index)
    try:
        target = find_target(submission.request["device"])
        keep_kind(Path(submission.request["kinds"]), target)
        with Signals() as signals:
            for number, planned in enumerate(submission.group(index)):
                attempt = TaskAttempt(index, number, restart)
                goes_on = _run_attempt(submission, attempt, planned, target, worker, signals, limit)
                if signals.stops:
                    return 128 + signal.SIGTERM
                if not goes_on:
                    break
    except (InputError, DiskFullError, OSError) as error:
        # the last line may become the message of a row, which does not name nodes
        echo(f"on {socket.gethostname()}:\nerror: {error}", err=True)
        return 1 if isinstance(error, InputError) else NO_FILES
    return 0


def find_target(device: str) -> Target:
    """The conditions of cells on this node, as `find_conditions`. A job has the CPUs that Slurm
    allocated to it, also where nothing binds its processes to them. A cell has a node alone if its
    job has all CPUs of the node."""
    target = find_conditions(device)
    conditions = target.conditions
    own = os.environ.get("SLURM_CPUS_ON_NODE", "")
    if own.isdecimal():
        node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
        all_cpus = commands.cpus_of(node) or os.cpu_count() or 1
        conditions = replace(
            conditions,
            threads=min(conditions.threads, int(own)),
            sharing=_SHARED if int(own) < all_cpus else None,
        )
    return replace(target, conditions=conditions)


def keep_kind(folder: Path, target: Target) -> None:
    """Add the conditions of this node to those that are known of the cluster."""
    path = folder / f"{target.conditions.conditions_id}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, TARGET.dump_json(target))


def time_limit(index: int) -> tuple[float, str] | None:
    """When this array task reaches its time limit, as of `time.monotonic`, and the limit; None if
    it has none. The clock of the node does not matter."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID", "")
    limit = commands.time_limit(int(job), index) if job.isdecimal() else None
    return None if limit is None else (time.monotonic() + limit[0], limit[1])


def _run_attempt(
    submission: Submission,
    attempt: TaskAttempt,
    planned: Attempt,
    target: Target,
    worker: Sequence[str],
    signals: Signals,
    limit: tuple[float, str] | None,
) -> bool:
    """Run a cell, unless an earlier attempt has a result, and publish its row; false if the job has
    no time for further cells."""
    for restart in range(attempt.restart):
        earlier = replace(attempt, restart=restart)
        why = "its node failed, or Slurm started its job again"
        row = submission.close(earlier, planned, "interrupted", why)
        if row is not None and row.status not in RESUMED:
            return True
    start = Start(socket.gethostname(), target, utc(datetime.now(UTC)))
    if signals.stops or not submission.begin(attempt, start):
        return True
    run = submission.run(attempt, planned, target)
    timeout_s, limit_text = _timeout_s(run, limit)
    folder = run.folder(submission.runs_csv())
    row, outcome = run_cell(
        replace(run, timeout_s=timeout_s), target, folder, worker=tuple(worker),
        on_progress=lambda _message: None, signals=signals,
    )  # fmt: skip
    row = _explained(submission, attempt.index, row, outcome, signals, limit_text)
    submission.publish_row(attempt, row, folder)
    return not (limit_text and row.status == "timeout")


def _timeout_s(run: Attempt, limit: tuple[float, str] | None) -> tuple[float | None, str]:
    """The seconds that a cell may take, and the job's limit if that is the reason."""
    if limit is None:
        return run.timeout_s, ""
    left_s = limit[0] - time.monotonic()
    left_s = max(1.0, (left_s - min(MARGIN_S, left_s / 4)) // 1)
    if run.timeout_s is not None and run.timeout_s <= left_s:
        return run.timeout_s, ""
    return left_s, f"the job's time limit of {limit[1]} (time= of --slurm)"


def _explained(
    submission: Submission, index: int, row: Row, outcome: WorkerEnd, signals: Signals, limit: str
) -> Row:
    """The row of a worker that did not end by itself, with the reason: the job's limit, or Slurm's.
    Slurm sends SIGTERM to every process of a job, so that a worker may end before this process gets
    the signal, and adds its reason to the job's output."""
    if row.status == "timeout" and limit:
        return replace(row, message=f"reached {limit}: {row.message}")
    is_ended = signals.stops or outcome.signal == signal.SIGTERM
    if not is_ended or row.status not in ("interrupted", "crashed"):
        return row
    end = time.monotonic() + _PATIENCE_S
    while not (signals.stops and submission.end_by_slurm(index)[0]) and time.monotonic() < end:
        time.sleep(0.1)
    status, message = submission.end_by_slurm(index)
    message = message or "its job was ended by SIGTERM"
    return replace(row, status=status or "interrupted", message=message)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), tuple(sys.argv[2:]) or WORKER))
