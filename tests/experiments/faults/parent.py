"""A parent: a process that runs a case's grid as `bench.grid` does, followed and struck.

It is forked from a process that has everything imported, so that it starts within milliseconds.
Its Session, Store, runner and files are the real ones; the fake worker's model and data are stubs,
and so, mostly, is the report, which keeps matplotlib out.
"""

import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

from filelock import FileLock

from bench.common.command import BAD_INPUT
from bench.common.errors import DiskFullError
from bench.common.files import write_atomically
from bench.executors import local
from bench.grid.session import Session
from bench.launch import attempt, runner
from bench.launch.display import Display
from bench.plan.columns import NAMES
from bench.plan.planning import plan
from bench.results.rowfile import encode, record
from bench.results.store import Store, read_rows
from tests.experiments.faults.actions import fill_disk
from tests.experiments.faults.kinds import Strike
from tests.experiments.faults.notes import Notes
from tests.experiments.faults.setups import ROOT, setup
from tests.experiments.faults.worker import NOTES, PLACE, RUN, Hook

GRACE_S = 0.5
_OF_A_CELL = ("launch", "load", "tokenise", "train", "evaluate", "save", "ended", "append")


@dataclass(frozen=True, kw_only=True)
class Order:
    """One run of a case's grid. `number` is 0 for the run that is struck."""

    worker: str
    place: Path
    notes: Path
    number: int
    slots: int = 1
    strike: Strike | None = None
    timeout_s: float | None = None
    rerun: str | None = None
    report: bool = False
    group: Path | None = None

    @property
    def runs_csv(self):
        return self.place / "runs.csv"


def start(order):
    """Fork a parent; its process id."""
    setup(order.worker)  # made once, before the fork
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the child can handle it
    pid = os.fork()
    if pid == 0:
        _be_one(order)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    return pid


def _be_one(order):
    code = 70
    try:
        os.setsid()
        for number, name in ((1, "out"), (2, "err")):
            with (order.notes / f"run-{order.number}.{name}").open("ab") as file:
                os.dup2(file.fileno(), number)
        if order.group is not None:
            (order.group / "cgroup.procs").write_text(str(os.getpid()))
        values = {PLACE: order.place, NOTES: order.notes, RUN: order.number, "PYTHONPATH": ROOT}
        os.environ |= {name: str(value) for name, value in values.items()}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        code = _run(order)
    except BAD_INPUT as error:
        sys.stderr.write(f"error: {error}\n")
        code = 2
    except KeyboardInterrupt:  # as click does
        code = 130
    except BaseException:  # noqa: BLE001  nothing else of this process may run
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(order):
    """Plan and run what is left, as the command does; the exit code."""
    made, follower = setup(order.worker), Follower(order)
    slots = [made.target(f"faults {order.place}")] * order.slots
    follower.follow()
    rows = read_rows(order.runs_csv)
    planned = plan(made.cells, rows, made.conditions.columns(), rerun=order.rerun)
    store = Store(order.runs_csv)
    follower.enter("check")
    store.check_writable()
    follower.enter("run")
    options = {"store": store, "keep": True, "arguments": ("--grid", "faults")}
    session = made.session(order.runs_csv, slots, timeout_s=order.timeout_s, **options)
    code = session.run([planned])
    follower.enter("done")
    return code


class Follower:
    """Tells the phases of this process to a hook, and strikes it."""

    def __init__(self, order):
        strike = order.strike
        self._strike = strike if strike is not None and strike.side == "parent" else None
        self._hook = Hook(self._strike, self._act)
        self._order = order
        self._cell = -1
        self._cell_id = ""
        self._row = {}

    def enter(self, phase):
        if phase in _OF_A_CELL and (self._strike is None or self._strike.cell != self._cell):
            phase = f"{phase} of another cell"
        self._hook.enter(phase)

    def follow(self):
        """Put this process's phases between the product's own steps."""

        def launch(run, *_):
            self._cell, self._cell_id = self._cell + 1, run.job.cell.cell_id
            return "launch"

        def append(_store, row):
            self._row = row
            return "append"

        if self._order.report:
            from bench.report import render as module
        else:
            module = SimpleNamespace(render=stub_report)
            sys.modules["bench.report.render"] = module
        self._wrap(Session, "_write_plan", lambda *_: "plan")
        self._wrap(Session, "_close", lambda *_: "close")
        self._wrap(Store, "append", append, "run")
        self._wrap(Display, "progress", lambda _, message, *_others: message.get("phase"))
        self._wrap(local, "run_cell", launch)
        self._wrap(attempt, "run_worker", lambda *_: "run", "ended", grace_s=GRACE_S)
        self._wrap(module, "render", lambda *_: "render")

    def _wrap(self, owner, name, phase_of, after="", **more):
        """Let a function enter the phase that follows from its arguments, and another one after."""
        function = getattr(owner, name)

        def followed(*arguments, **named):
            phase = phase_of(*arguments)
            if isinstance(phase, str):
                self.enter(phase)
            result = function(*arguments, **named, **more)
            if after:
                self.enter(after)
            return result

        setattr(owner, name, followed)

    def _act(self, strike, phase):
        runs_csv = self._order.runs_csv
        if not Notes(self._order.notes).strike(phase, self._cell_id, runs_csv):
            return
        if strike.action == "fill_disk":
            fill_disk(strike.amount, self._order.place)
        elif strike.action == "jump":
            jump(strike.amount)
        else:
            if strike.action == "tear_append":
                tear_append(runs_csv, self._row, strike.amount)
            os.kill(os.getpid(), signal.SIGKILL)


def stub_report(results, reports, **_others):
    """A report of one number, written as the real one is."""
    index = reports / "index.html"
    try:
        reports.mkdir(exist_ok=True)
        write_atomically(index, f"{len(results.rows)} rows".encode())
    except OSError as error:
        raise DiskFullError(f"{reports}: no space left for the report") from error
    return index


def tear_append(runs_csv, row, amount):
    """Write a part of a row's record, under the lock, as a writer does that is killed just then."""
    line = encode(row)
    with FileLock(f"{runs_csv}.lock"):
        if not runs_csv.exists():
            write_atomically(runs_csv, record(NAMES))
        with runs_csv.open("ab") as file:
            file.write(line[: 1 + amount % (len(line) - 1)])


def jump(seconds):
    """Put the wall clock forward, or back, for the rest of this process."""
    clock = time.time

    class Jumped(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(seconds=seconds)

    runner.datetime = Jumped
    time.time = lambda: clock() + seconds
