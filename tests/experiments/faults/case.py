"""A fault from beginning to end: the run that it strikes, the runs that go on, and the checks."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from unittest.mock import patch

from bench.launch.runner import limited
from bench.plan.columns import row_of
from bench.plan.rows import RESUMED, current_rows
from bench.results import merge, rebuild
from bench.results.origins import folder_of
from bench.results.protocol import RESULT
from bench.results.row import keep_row
from bench.results.store import Store, read_rows
from tests.experiments.faults import checks
from tests.experiments.faults.kinds import (
    BUSY,
    MEANWHILE,
    Fault,
    codes_of,
    statuses_of,
    strike_of,
)
from tests.experiments.faults.notes import Notes, read, records, whole
from tests.experiments.faults.parent import Parent
from tests.experiments.faults.setups import setup
from tests.experiments.faults.worker import STRIKE
from tests.experiments.processes import in_processes

_LONGEST_RUN_S = {"fake": 60.0, "real": 180.0}
_TIMEOUT_S = {"fake": 1.5, "real": 15.0}
_USUAL_RUN_S = {"fake": 0.8, "real": 6.0}
_MEMORY_MIB = {"fake": 512, "real": 1024}
"""Of a control group: the parent is far smaller, so that the worker is what gets killed."""
_MOST_PAGES = {"fake": 24, "real": 80}
_MOST_RUNS = 6
_MERGED = 8
"""Rows that another command merges into those of the grid."""
_USUAL_COMMAND_S = 0.3


@dataclass
class Verdict(checks.Findings):
    fault: Fault
    struck: bool = False
    means: str = ""  # how a limit was made

    @property
    def name(self):
        fault = self.fault
        return f"fault {fault.number} ({fault.kind}, {fault.phase}, {fault.worker} worker)"


def run_case(fault, folder):
    """Strike once, go on until nothing is left to do, and check. What strikes nothing is tried
    again, at the beginning of its phase. The folder stays if something is wrong."""
    for early in (False, True):
        case = Case(fault, folder / f"fault-{fault.number}{'-again' if early else ''}", early)
        verdict = case.verdict
        try:
            case.run()
        except (OSError, ValueError, LookupError) as error:  # a runs.csv that can't be read, too
            verdict.wrong.append(f"{type(error).__name__}: {error}")
        if verdict.good:
            shutil.rmtree(case.folder)
        if verdict.struck or not verdict.good:
            break
    return verdict


@contextmanager
def small_disk(folder, pages):
    """A disk with so many pages left; the file that fills it, or None without the right."""
    argv = ["/bin/mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(argv, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        filler = folder / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        os.truncate(filler, filler.stat().st_size - pages * 4096)
        yield filler
    finally:
        subprocess.run(["/bin/umount", "-l", str(folder)], check=True)


class Case:
    def __init__(self, fault, folder, early):
        self.fault = fault
        self.folder = folder.resolve()
        self.place = self.folder / "place"
        self.place.mkdir(parents=True)
        self.notes = Notes(self.folder / "notes")
        self.notes.folder.mkdir()
        self.csv = self.place / "runs.csv"
        self.other = self.folder / "other" / "runs.csv"
        self.early = early
        self.noise = fault.noise()
        self.verdict = Verdict(fault)
        self.setup = setup(fault.worker)
        self.cell_ids = [cell.cell_id for cell in self.setup.cells]
        self._filler = None
        self._kept = b""
        self._attempts = int(fault.phase != "anywhere" and self.noise.random() < 0.25)

    def run(self):
        with ExitStack() as stack:
            parent = self._first_parent(stack)
            if parent.strike is not None and parent.strike.side == "worker":
                (self.notes.folder / STRIKE).write_text(json.dumps(asdict(parent.strike)))
            # rows as of a grid that was stopped in each of its cells: their reruns are struck
            at = "2026-01-01T00:00:00Z"
            others = {"started_at": at, "finished_at": at, "attempt": 1, "status": "interrupted"}
            for cell in self.setup.cells if self._attempts else ():
                row = row_of({**cell.columns(), **self.setup.conditions.columns(), **others})
                Store(self.csv).append(row)
            self._first(parent)
            self._check_first()
            self._between()
            self._go_on()
            self._check_end()

    def _first_parent(self, stack):
        fault, worker, group = self.fault, self.fault.worker, None
        if fault.kind == "host memory":
            group = stack.enter_context(limited(_MEMORY_MIB[worker]))
            self.verdict.means = "control group" if group else "RLIMIT_AS"
        if fault.phase == "anywhere":
            pages = 0 if self.early else self.noise.randrange(_MOST_PAGES[worker])
            self._filler = stack.enter_context(small_disk(self.place, pages))
            self.verdict.means = "small disk" if self._filler else "failing fsync"
            if self._filler is None:
                fault = replace(fault, phase="launch")
        return Parent(
            case=self, number=0, group=group and group.folder,
            strike=strike_of(fault, early=self.early, limited=group is not None),
            timeout_s=_TIMEOUT_S[worker] if fault.kind == "hang" else None,
            has_report=worker == "real" and fault.phase == "render",
        )  # fmt: skip

    def _first(self, parent):
        """The run, or the two runs at once, in which the fault strikes."""
        processes = [parent.start()]
        if self.fault.kind == "two parents":
            usual_s = _USUAL_RUN_S[self.fault.worker]
            time.sleep(self.noise.random() * usual_s)
            processes.append(parent.start())
            if self.fault.phase == "one stopped":
                time.sleep(self.noise.random() * usual_s)
                self._note_strike()
                os.kill(processes[1].pid, signal.SIGINT)  # not reaped yet, so at worst a zombie
            elif self.fault.phase == "both live":
                self._note_strike()
        elif self.fault.phase in MEANWHILE:
            time.sleep(self.noise.random() * _USUAL_RUN_S[self.fault.worker])
            self._note_strike()
            processes.append(self._command().start())
            if self.fault.phase.endswith("killed"):
                time.sleep(self.noise.random() * _USUAL_COMMAND_S)
                os.kill(processes[1].pid, signal.SIGKILL)
        for process in processes:
            code = self._wait(process)
            if code not in codes_of(self.fault):
                self.verdict.wrong.append(f"the parent of the first run ended with {code}")
            if self._filler is not None and code:
                self._note_strike()

    def _command(self):
        """A merge into the grid's results, or a rebuild of them, in a process of its own."""
        command = rebuild.main, "--runs", str(self.csv)
        if self.fault.kind == "merge meanwhile":
            command = merge.main, str(self.other), "--to", str(self.csv)
            if not self.other.exists():
                self._fill_other()
        return Parent(case=self, number=0, command=command)

    def _fill_other(self):
        at, cells = "2026-01-01T00:00:00Z", self.setup.cells
        for number in range(_MERGED):
            cell = replace(cells[0], seed=100 + number)
            more = {"started_at": at, "finished_at": at, "attempt": 1, "status": "ok"}
            row = row_of({**cell.columns(), **self.setup.conditions.columns(), **more})
            Store(self.other).append(row)
            keep_row(folder_of(self.other, row), row)
            (folder_of(self.other, row) / "steps.csv").write_bytes(self.noise.randbytes(2**16))

    def _command_again(self):
        code = self._wait(self._command().start())
        if code != 0:
            self.verdict.wrong.append(f"a {self.fault.kind} without a fault ended with {code}")

    def _spoil_twice(self):
        """Spoil a line and rebuild the file, twice."""
        spoilt = []
        self._note_strike()
        for number in range(2):
            with self.csv.open("ab") as file:
                file.write(b"spoilt,%d\r\n" % number)
            spoilt.append(read(self.csv))
            self._command_again()
        if spoilt != [read(path) for path in sorted(self.place.glob("runs.csv.before*"))]:
            self.verdict.lost.append("the copy of a spoilt runs.csv")

    def _wait(self, process):
        process.join(_LONGEST_RUN_S[self.fault.worker])
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
        return code

    def _note_strike(self):
        self.notes.strike(self.fault.phase, "", self.csv)

    def _check_run(self, name):
        verdict, data = self.verdict, read(self.csv)
        verdict.left_running += checks.left_running(self.folder)
        verdict.lost += [f"{name}: {lost}" for lost in checks.lost_rows(self._kept, data)]
        self._kept = whole(data)

    def _check_first(self):
        self._kept = whole(read(self.notes.folder / "at-strike.csv"))
        self._check_run("first run")
        struck = self.notes.struck()
        if struck is None or not struck["cell_id"]:
            return
        ids = (struck["cell_id"], str(self._attempts + 1))
        rows = [row for row in records(read(self.csv)) if (row["cell_id"], row["attempt"]) == ids]
        status = rows[-1]["status"] if rows else ""
        if status not in statuses_of(self.fault):
            end = f"{status or 'no row'} ({rows[-1]['message'] if rows else ''})"
            self.verdict.wrong.append(f"the struck cell has {end}")
        killed = self.fault.kind == "parent killed" and struck["phase"] in ("start", *BUSY)
        if killed and any((self.place / "runs").glob(f"*-{struck['cell_id']}-*/{RESULT}")):
            self.verdict.left_running.append("the worker, which left a result later")

    def _between(self):
        """What strikes between the runs, and makes space on a disk that was full."""
        if self._filler is not None:
            self._filler.unlink()
        struck = self.notes.struck()
        cell_id = struck["cell_id"] if struck else self.noise.choice(self.cell_ids)
        folders = list((self.place / "runs").glob(f"*-{cell_id}-*"))
        data, phase = read(self.csv), self.fault.phase
        last = whole(data).rstrip().rfind(b"\n") + 1
        if phase == "spoilt twice":
            self._spoil_twice()
        elif phase in MEANWHILE:
            self._command_again()
        elif phase == "the last row":
            self._note_strike()
            os.truncate(self.csv, last + self.noise.randrange(1, len(data) - last))
            self._kept = data[:last]
        elif phase == "a row more" and struck:
            with self.csv.open("ab") as file:
                file.write(data[last : self.noise.randrange(last + 1, len(data))])
        elif phase == "cut later" and struck:
            path = folders[0] / RESULT
            os.truncate(path, self.noise.randrange(path.stat().st_size - 2))
        elif phase == "files' times" and struck:
            seconds = time.time() + self.noise.choice((-1, 1)) * self.noise.randrange(10**9)
            name = self.noise.choice((RESULT, "cell.json"))
            os.utime(folders[0] / name, (seconds, seconds))
        elif phase in ("done", "left behind"):
            if phase == "done":
                self._note_strike()
            shutil.rmtree(folders[0])

    def _go_on(self):
        """Run the grid again until each cell is done, and once more."""
        verdict, conditions_id = self.verdict, self.setup.conditions.conditions_id
        self._finished = checks.finished(self.place, read(self.csv))
        for number in range(1, _MOST_RUNS + 1):
            last = current_rows(read_rows(self.csv, lambda _: None))
            rows = [last.get((cell_id, conditions_id, 1)) for cell_id in self.cell_ids]
            statuses = {row and row["status"] for row in rows}
            failed = sorted(statuses - {None, "ok", *RESUMED})
            parent = Parent(case=self, number=number, rerun=failed[0] if failed else None)
            code = self._wait(parent.start())
            self._check_run(f"run {number}")
            if statuses == {"ok"}:  # before this run, which had nothing to do
                if code != 0:
                    verdict.wrong.append(f"a run with nothing to do ended with {code}")
                return
            if code not in (0, 1):
                verdict.wrong.append(f"run {number} ended with {code}")
        verdict.wrong.append(f"not done after {_MOST_RUNS} runs")

    def _check_end(self):
        verdict, data = self.verdict, read(self.csv)
        verdict.struck = self.notes.struck() is not None
        verdict.lost += checks.unfinished_cells(self.cell_ids, data)
        verdict.lost += checks.unmerged(self.other, self.place, data)
        verdict.duplicated += checks.repeated_rows(data)
        verdict.duplicated += checks.repeated_work(self.notes.launches(), self._finished)
        if data != whole(data):
            verdict.wrong.append("runs.csv ends with a part of a row")
        verdict.wrong += checks.wrong_rows(self.place, data)
        verdict.wrong += [f"left over: {name}" for name in checks.strays(self.place)]
        verdict.wrong += checks.long_outputs(self.place)
        for path in self.notes.folder.glob("run-*.err"):
            if "Traceback" in (text := path.read_text(errors="replace")):
                verdict.wrong.append(f"{path.name}: {text.splitlines()[-1]}")


def run_suite(faults, *, jobs, folder):
    """Verdicts, from `jobs` processes without threads, as each forks its cases' parents."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    with patch.dict(os.environ, dict.fromkeys(threads, "1")):
        return list(in_processes(jobs, [(run_case, fault, folder) for fault in faults]))


def summary(verdicts, seed, seconds):
    by_kind = {}
    for each in verdicts:
        key = each.fault.kind, each.fault.phase, each.fault.worker
        by_kind.setdefault(key, []).append(each)
    struck = [each for each in verdicts if each.struck]
    return {
        "faults": len(verdicts), "seed": seed, "seconds": round(seconds, 1),
        "injected": len(struck),
        "at_real_workers": sum(each.fault.worker == "real" for each in struck),
        "missed": len(verdicts) - len(struck), **checks.counted(verdicts),
        "means": dict(Counter(each.means for each in verdicts if each.means)),
        "counts": [
            {"kind": kind, "phase": phase, "worker": worker, "injected": injected}
            | {"missed": len(some) - injected, **checks.counted(some)}
            for (kind, phase, worker), some in sorted(by_kind.items())
            for injected in [sum(each.struck for each in some)]
        ],
        "bad": [asdict(verdict) for verdict in verdicts if not verdict.good],
    }  # fmt: skip
