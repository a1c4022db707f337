"""A process that runs a case's grid as `bench.grid` does, followed and struck: forked from one that
has everything imported, and with a stub for a report, mostly."""

import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import scipy.special  # noqa: F401  what parents need at their end is imported before they fork
from filelock import FileLock

from bench.common.command import BAD_INPUT, run_command
from bench.common.errors import DiskFullError
from bench.common.files import write_atomically
from bench.executors import local
from bench.grid.session import Session
from bench.launch import attempt, runner
from bench.launch.display import Display
from bench.plan.columns import NAMES
from bench.plan.planning import plan
from bench.report import labels  # noqa: F401
from bench.results.rowfile import encode, record
from bench.results.store import Store, read_rows
from tests.experiments.faults.kinds import Strike
from tests.experiments.faults.setups import ROOT
from tests.experiments.faults.worker import NOTES, PLACE, RUN, Hook, fill_disk, hide

_OF_A_CELL = ("launch", "load", "tokenise", "train", "evaluate", "save", "ended", "append")


@dataclass(kw_only=True)
class Parent:
    case: object
    number: int
    strike: Strike | None = None
    timeout_s: float | None = None
    rerun: str | None = None
    has_report: bool = False
    group: Path | None = None
    command: tuple = ()  # in place of a grid: another, with its arguments

    def start(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the child can handle it
        process = get_context("fork").Process(target=self._be)
        process.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return process

    def _be(self):
        code, notes = 70, self.case.notes.folder
        try:
            os.setsid()
            for number, name in ((1, "out"), (2, "err")):
                with (notes / f"run-{self.number}.{name}").open("ab") as file:
                    os.dup2(file.fileno(), number)
            if self.group is not None:
                (self.group / "cgroup.procs").write_text(str(os.getpid()))
            values = {PLACE: self.case.place, NOTES: notes, RUN: self.number, "PYTHONPATH": ROOT}
            os.environ |= {name: str(value) for name, value in values.items()}
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            code = self._run() if not self.command else self._run_command()
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

    def _run(self):
        case, made = self.case, self.case.setup
        slots = [made.target(f"faults {case.place}")] * case.fault.slots
        self._follow()
        planned = plan(made.cells, read_rows(case.csv), made.conditions.columns(), rerun=self.rerun)
        options = {"timeout_s": self.timeout_s, "keep": True, "arguments": ("--grid", "faults")}
        session = made.session(case.csv, slots, **options)
        self._enter("check")
        session.store.check_writable()
        self._enter("run")
        code = session.run([planned])
        self._enter("done")
        return code

    def _run_command(self):
        command, *sys.argv[1:] = self.command
        try:
            run_command(command)
        except SystemExit as end:
            return end.code

    def _follow(self):
        """Put this process's phases between the product's own steps."""
        if self.strike is not None and self.strike.side != "parent":
            self.strike = None
        self._hook = Hook(self.strike, self._act)
        self._cell, self._cell_id, self._row = -1, "", {}

        def launch(run, *_):
            self._cell, self._cell_id = self._cell + 1, run.job.cell.cell_id
            return "launch"

        def append(_store, row):
            self._row = row
            return "append"

        if not self.has_report:
            sys.modules["bench.report.render"] = SimpleNamespace(render=stub_report)
        module = import_module("bench.report.render")
        self._wrap(Session, "_write_plan", lambda *_: "plan")
        self._wrap(Session, "_close", lambda *_: "close")
        self._wrap(Store, "append", append, "run")
        self._wrap(Display, "progress", lambda _, message, *_others: message.get("phase"))
        self._wrap(local, "run_cell", launch)
        self._wrap(attempt, "run_worker", lambda *_: "run", "ended", grace_s=0.5)
        self._wrap(module, "render", lambda *_: "render")

    def _wrap(self, owner, name, phase_of, after="", **more):
        """Let a function enter the phase that follows from its arguments, and another one after."""
        function = getattr(owner, name)

        def followed(*arguments, **named):
            phase = phase_of(*arguments)
            if isinstance(phase, str):
                self._enter(phase)
            result = function(*arguments, **named, **more)
            if after:
                self._enter(after)
            return result

        setattr(owner, name, followed)

    def _enter(self, phase):
        if phase in _OF_A_CELL and (self.strike is None or self.strike.cell != self._cell):
            phase = f"{phase} of another cell"
        self._hook.enter(phase)

    def _act(self, strike, phase):
        csv = self.case.csv
        if not self.case.notes.strike(phase, self._cell_id, csv):
            return
        if strike.action == "fill_disk":
            fill_disk()
        elif strike.action == "hide_csv":
            hide(csv, raises=strike.amount)
        elif strike.action == "jump":  # the wall clock, for the rest of this process
            clock, ahead = time.time, timedelta(seconds=strike.amount)

            class Jumped(datetime):
                @classmethod
                def now(cls, tz=None):
                    return datetime.now(tz) + ahead

            runner.datetime = Jumped
            time.time = lambda: clock() + strike.amount
        else:
            if strike.action == "tear_append":  # under the lock, as a writer killed just then
                line = encode(self._row)
                with FileLock(f"{csv}.lock"):
                    if not csv.exists():
                        write_atomically(csv, record(NAMES))
                    with csv.open("ab") as file:
                        file.write(line[: 1 + strike.amount % (len(line) - 1)])
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
