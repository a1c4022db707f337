"""Runs cells as array tasks of Slurm, and collects their rows."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from bench.common.errors import InputError, RefusedError, StoppedError
from bench.common.progress import note_to_stderr
from bench.executors.executor import Dispatcher, Executor, Opening, refuse
from bench.executors.slurm import commands
from bench.executors.slurm.commands import Queued, SlurmError
from bench.executors.slurm.following import Following, Key, Submitter, key_of
from bench.executors.slurm.node_check import check_nodes, lines
from bench.executors.slurm.options import Request, parse_request
from bench.executors.slurm.probe import Prober, known_kinds
from bench.executors.slurm.submission import DONE, submissions, submissions_folder
from bench.launch.attempt import Attempt, keep
from bench.launch.display import Display
from bench.launch.signals import Signals
from bench.machine.conditions import Target, find_conditions
from bench.plan.planning import Planned, groups_of
from bench.plan.rows import Row
from bench.report.text import phrase
from bench.results.protocol import ROW
from bench.results.store import Store, cell_folder

POLL: Final = "MINBERT_BENCH_SLURM_POLL_S"
"""Environment: the seconds between two looks at the queue."""
_POLL_S: Final = 10.0
_TICK_S: Final = 0.2
LOCK_S: Final = 300.0
"""Submitting takes a minute for each array if the controller is slow: a lock that is held for
longer than a few belongs to a process that hangs."""
_LIMIT: Final = re.compile(
    r"limit|exceed|too large|violates|invalid job array|temporarily", re.IGNORECASE
)
"""Errors of sbatch that a smaller array, or the same one later, may not get."""
_LEAST: Final = 8
"""While others are queued, arrays get no smaller than this part of the cluster's limit, or than the
largest so far if that is smaller: with --max-running they run one after the other."""
_STUCK: Final = re.compile(
    r"h[eo]ld|BadConstraints|NeverSatisfied|Invalid|NotAllowed|PerJobLimit"
    r"|Partition(Down|Inactive|TimeLimit|NodeLimit|Config)",
    re.IGNORECASE,
)
"""Reasons for which array tasks wait until somebody does something about it."""
_SUBMIT: Final = "submit.lock"
"""The lock of a command that submits. Whoever has it sees no submission of another command that is
about to be queued."""
_WAITING: Final = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")


def poll_s() -> float:
    return float(os.environ.get(POLL) or _POLL_S)


class SlurmExecutor(Executor):
    """Runs cells on a cluster, where a probe job has reached a node that is the target."""

    def __init__(
        self, store: Store, submitter: Submitter, target: Target, *, checks_nodes: bool = False
    ) -> None:
        self._store = store
        self._submitter = submitter
        self._target = target
        self._checks_nodes = checks_nodes
        self.devices = [target.device]
        self.flags = submitter.request.flags
        self._folder = submissions_folder(store.path)
        self._followed: list[Following] = []
        self._largest = self._size = 0  # array tasks of the largest array, and of the next
        self._ready: list[list[Attempt]] = []
        self._signals = Signals()
        self._complained = False
        self._stuck: set[tuple[int, str]] = set()
        self._items: dict[Key, Planned] = {}
        self._known: dict[Path, Following] = {}

    @property
    def kinds(self) -> Mapping[str, Target]:
        """The conditions of all nodes that are known, those of the probe's node first."""
        return known_kinds(self._submitter.kinds_folder, self._target)

    def script(self, groups: Sequence[Sequence[Attempt]]) -> str:
        return self._submitter.script(groups) if groups else ""

    def check(self, run: Callable[[], Attempt], signals: Signals) -> Sequence[str]:
        """With --check-nodes, lines on how long a cell takes on each node."""
        if not self._checks_nodes:
            return ()
        return lines(check_nodes(self._submitter, run(), note_to_stderr, signals, poll_s()))

    def collect(self) -> None:
        """Take the rows that earlier commands left into runs.csv. SlurmError without an answer."""
        with self._locked(_SUBMIT):
            known = list(self._live())
        if known:
            queued = _queued(known)
            for one in known:
                self._take(one, queued, None)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lock, end, stops = FileLock(path), time.monotonic() + LOCK_S, self._signals.stops
        while not lock.is_locked:
            try:
                lock.acquire(timeout=_TICK_S)
            except Timeout as error:
                if self._signals.stops > stops:
                    raise StoppedError from error
                if time.monotonic() > end:
                    raise InputError(
                        f"{path}: another process has held this lock for {LOCK_S:.0f} s; wait for "
                        "it, or end it, and give the command again"
                    ) from error
        try:
            yield
        finally:
            lock.release()

    def _live(self) -> Iterator[Following]:
        """The submissions that are not done, each as far as it has been read."""
        for submission in submissions(self._store.path):
            if submission.folder not in self._known:
                try:
                    self._known[submission.folder] = Following(submission)
                except InputError as error:
                    raise InputError(
                        f"{error}; if another version of this project has submitted it: scancel "
                        f"--name={submission.name}, delete {submission.folder}, and give the "
                        "command again"
                    ) from error
            yield self._known[submission.folder]

    def run(self, items: Sequence[Planned], dispatcher: Dispatcher, signals: Signals) -> bool:
        """As `bench.executors.executor.Executor.run`. Array tasks of an earlier command that run
        the same cells are followed. If the user stops it, array tasks go on, unless the user wants
        them cancelled."""
        self._signals = signals
        self._items = {item.key: item for item in items}
        with self._locked(_SUBMIT):
            self._follow(dispatcher.display)
        own = {key for one in self._followed for key in one.keys}
        groups = groups_of(item for item in items if item.key not in own)
        self._ready = []
        for group in groups:
            self._ready += _not_empty([[self._prepared(item, dispatcher) for item in group]])
            if signals.stops:
                raise StoppedError
        stops = 0
        while True:
            if self._followed:
                self._look(dispatcher)
            if not self._followed and (stops or not self._ready):
                return bool(stops)
            if self._ready and not stops:
                self._submit(dispatcher)
            _sleep(poll_s(), signals, stops)
            if signals.stops > stops:
                if stops or not self._cancel(signals, dispatcher.display):
                    return True
                stops = signals.stops

    def _prepared(self, item: Planned, dispatcher: Dispatcher) -> Attempt | None:
        """As `Dispatcher.prepare`, as an attempt that is the next one on any kind of node: one that
        is not known yet may have results of jobs that asked for something else."""
        run = dispatcher.prepare(item)
        if run is None:
            return None
        job = run.job
        attempt = max(job.attempt, self._store.highest_attempt(*key_of(run)) + 1)
        return replace(run, job=replace(job, attempt=attempt))

    def _follow(self, display: Display) -> None:
        for one in self._live():
            if one not in self._followed and (taken := one.keys & self._items.keys()):
                self._followed.append(one)
                self._largest = max(self._largest, len(one.submission.groups))
                self._ready = _not_empty(
                    [run for run in group if key_of(run) not in taken] for group in self._ready
                )
                job = one.submission.job
                display.note(f"{len(taken)} of these cells are already queued, in job {job}")

    def _current(self, run: Attempt, dispatcher: Dispatcher) -> Attempt | None:
        """A run that is ready, unless its cell has got a row since it was prepared."""
        if self._store.highest_attempt(*key_of(run)) < run.job.attempt:
            return run
        return self._prepared(self._items[key_of(run)], dispatcher)

    def _submit(self, dispatcher: Dispatcher) -> None:
        """Submit what is ready, as much as Slurm accepts: after an array that it refuses comes a
        smaller one, after one that it accepts a larger one."""
        most = self._submitter.most
        self._size = self._size or most
        with self._locked(_SUBMIT):
            self._follow(dispatcher.display)
            while not self._signals.stops and (first := self._ready[: self._size]):
                groups = _not_empty(
                    [self._current(run, dispatcher) for run in group] for group in first
                )
                self._ready[: len(first)] = groups
                if not groups:
                    continue
                after = self._followed[-1].submission.job if self._followed else None
                try:
                    submission = self._submitter.submit(groups, after)
                except SlurmError as error:
                    least = min(self._largest, most // _LEAST or 1) if self._followed else 1
                    if _LIMIT.search(str(error)) and len(groups) > least:
                        self._size = max(least, len(groups) // 2)
                        continue
                    if not self._largest:
                        raise RefusedError(str(error)) from error
                    if not self._followed:
                        raise
                    return  # once some of what is queued has ended
                one = self._known[submission.folder] = Following(submission)
                self._followed.append(one)
                self._largest = max(self._largest, len(groups))
                self._size = min(2 * max(self._size, len(groups)), most)
                self._ready = self._ready[len(groups) :]
                dispatcher.display.note(phrase("slurm", "submitted", submission.job, groups))

    def _look(self, dispatcher: Dispatcher) -> None:
        try:
            queued = _queued(self._followed)
            self._complained = False
        except SlurmError as error:
            queued = None
            if not self._complained:
                dispatcher.display.note(
                    f"Slurm does not answer ({error}); jobs go on, asking again"
                )
            self._complained = True
        for one in self._followed:
            self._take(one, queued, dispatcher)
            for why, ends in groupby(sorted(one.not_run.values()), key=itemgetter(0)):
                nodes = [node for _, node in ends]
                note = phrase("slurm", "never_began", one.submission.job, why, nodes)
                dispatcher.display.note(note)
            one.not_run.clear()
        self._followed = [one for one in self._followed if one.open]
        for entry in queued or ():
            if _STUCK.search(entry.reason) and (entry.job, entry.reason) not in self._stuck:
                self._stuck.add((entry.job, entry.reason))
                tasks = len(entry.indexes)
                dispatcher.display.note(phrase("slurm", "stuck", entry.job, tasks, entry.reason))
        if queued is not None and self._followed:
            pending = sum(len(one.indexes) for one in queued if one.state in _WAITING)
            running = sum(len(one.indexes) for one in queued) - pending
            state = phrase("slurm", "state", running, pending, len(self._ready))
            dispatcher.display.stage(state, running)

    def _take(
        self, one: Following, queued: Sequence[Queued] | None, dispatcher: Dispatcher | None
    ) -> None:
        """Take new rows of a submission over, given the array tasks that have not ended (None:
        Slurm did not answer). The dispatcher gets the last row of each cell of this command."""
        own = [entry for entry in queued or () if entry.name == one.submission.name]
        if own and one.submission.job is None:  # its command ended while it submitted it
            one.submission.keep_job(own[0].job)
        indexes = frozenset[int]().union(*(entry.indexes for entry in own))

        with self._locked("collect.lock"):
            one.read(None if queued is None else indexes)
            others: list[Row] = []
            last: list[tuple[Planned, Row]] = []
            for run, rows in one.take():
                for row in rows:
                    folder = cell_folder(self._store.path, row.name, *row.key, row.attempt)
                    if not (folder / ROW).exists():  # its process ended before it could keep it
                        keep(folder, row)
                if dispatcher is not None and (item := self._items.get(key_of(run))):
                    last.append((item, rows.pop()))
                others += rows
            self._store.append(*others)
            if dispatcher is not None:
                dispatcher.ended(*last)
            if not one.open:
                (one.submission.folder / DONE).touch()
                self._known.pop(one.submission.folder, None)
                if any(entry.state in _WAITING for entry in own):  # restarts of cells that ended ok
                    with suppress(SlurmError):  # they would run nothing
                        commands.cancel("--state=PENDING", str(own[0].job))

    def _cancel(self, signals: Signals, display: Display) -> bool:
        """Cancel all jobs if the user, asked on a terminal, wants that; false if they go on."""
        jobs = [str(job) for one in self._followed if (job := one.submission.job) is not None]
        if not jobs:
            return False
        numbers = " ".join(jobs)
        question = f"cancel the array tasks of job{'s' if len(jobs) > 1 else ''} {numbers}?"
        if _confirmed(question, signals, display):
            try:
                commands.cancel(*jobs)
                return True
            except SlurmError as error:
                display.note(str(error))
        display.note(f"array tasks go on; to cancel them: scancel {numbers}")
        return False


def from_flags(flags: Mapping[str, Any]) -> Opening:
    for_here = {"--jobs": flags["jobs"] > 1, "--budget": flags["budget_min"] is not None}
    refuse(for_here, "this machine", "local")
    device = flags["device"]
    if device == "all" or "," in device:
        raise InputError(
            f"--device {device}: each array task uses the one device that Slurm gives it; take "
            "cpu or cuda, or leave --device out, and ask for one GPU with --slurm gres=gpu:1"
        )
    request = parse_request(flags["slurm_options"] or "", flags["max_running"])
    return lambda store, paths, is_dry: find_cluster(
        store, request, device, paths, dry_run=is_dry, checks_nodes=flags["check_nodes"]
    )


def find_cluster(
    store: Store, request: Request, device: str, paths: Iterable[Path], *, dry_run: bool,
    checks_nodes: bool = False,
) -> SlurmExecutor:  # fmt: skip
    """An executor on the cluster, once it is known that a node can run cells, which need some files
    and folders.

    Rows that array tasks have left since the last command are in the CSV then. A dry run asks no
    node: if none is known, conditions are those of this machine's CPU. InputError if there is no
    Slurm, it would refuse the jobs, or a node can't run cells. StoppedError if the user stops it.
    """
    prober = Prober(store.path, request, device, paths, note_to_stderr, poll_s())
    prober.check()
    if dry_run:
        target = prober.known()
        if target is None:
            note_to_stderr(
                "no node has been asked yet: the plan is as if nodes were like this machine"
            )
            target = find_conditions("cpu")
    else:
        store.check_writable()
        with Signals() as signals:
            target = prober.ask(signals)
    submitter = Submitter(store.path, request, device, prober.kinds_folder)
    executor = SlurmExecutor(store, submitter, target, checks_nodes=checks_nodes)
    if not dry_run:
        executor.collect()
    return executor


def _queued(submissions: Iterable[Following]) -> list[Queued]:
    every = [one.submission for one in submissions]
    return commands.queued([one.name for one in every], {one.request["user"] for one in every})


def _not_empty(groups: Iterable[Iterable[Attempt | None]]) -> list[list[Attempt]]:
    """Groups without their None entries; empty groups are left out."""
    return [kept for group in groups if (kept := [run for run in group if run is not None])]


def _sleep(seconds: float, signals: Signals, stops: int) -> None:
    """Sleep until the user stops the run once more."""
    end = time.monotonic() + seconds
    while signals.stops <= stops and (left_s := end - time.monotonic()) > 0:
        time.sleep(min(left_s, _TICK_S))


def _confirmed(question: str, signals: Signals, display: Display) -> bool:
    """Ask the user, where there is one; a further Ctrl-C is a no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    display.note(f"{question} [y/N]")
    stops, signals.stops = signals.stops, 0
    try:
        with signals.raising():
            return sys.stdin.readline().strip().lower() in ("y", "yes")
    except StoppedError:
        return False
    finally:
        signals.stops += stops
