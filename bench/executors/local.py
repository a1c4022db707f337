"""Runs cells on devices of this machine, on each of them one after the other.

A slot is a device, or a share of the CPU's cores, with a thread of its own that waits there for the
worker. Everything else that these threads do, they do in turn.
"""

import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Condition, Lock
from time import monotonic, sleep
from typing import Any, Final

from bench.common.errors import DeviceError
from bench.executors.executor import Dispatcher, Executor, Opening, refuse
from bench.launch.attempt import WORKER, Attempt, keep, run_cell
from bench.launch.locks import CELL_LOCKS, Locks, device_locks
from bench.launch.runner import WorkerEnd
from bench.launch.signals import Signals
from bench.machine.conditions import Target, find_slots
from bench.machine.gpu_trial import why_unusable
from bench.plan.planning import Planned, groups_of
from bench.plan.rows import BUSY, CellKey
from bench.results.protocol import DEVICE_FAILED
from bench.results.store import cells_folder

AGAIN_S: Final = 60.0
"""The least seconds until a cell is tried again whose GPU's memory other processes held."""


def from_flags(flags: Mapping[str, Any]) -> Opening:
    """The executor on the devices that the flags name, which are checked."""
    others = {"--slurm": "slurm_options", "--max-running": "max_running"}
    given = {flag: flags[name] for flag, name in others.items()}
    refuse({**given, "--check-nodes": flags["check_nodes"]}, "a cluster", "slurm")
    slots = find_slots(flags["device"], flags["jobs"])
    return lambda store, _paths, _is_dry: LocalExecutor(store.path, slots)


class LocalExecutor(Executor):
    """Runs cells of a CSV on devices of one kind, in turn with the other grids of this machine. The
    last argument of the worker's command is the cell's folder."""

    def __init__(
        self, runs: Path, slots: Sequence[Target], worker: tuple[str, ...] = WORKER
    ) -> None:
        self._runs = runs
        self._slots = slots
        self._worker = worker
        self.workers = len(slots)
        self.devices = [slot.device for slot in slots]

    @property
    def kinds(self) -> Mapping[str, Target]:
        return {self._slots[0].conditions.conditions_id: self._slots[0]}

    def run(self, items: Sequence[Planned], dispatcher: Dispatcher, signals: Signals) -> bool:
        queue = _Queue(groups_of(items), len(self._slots))
        with (
            Locks(cells_folder(self._runs) / CELL_LOCKS, signals, 0o666) as cells,
            Locks(device_locks(), signals) as devices,
        ):
            run = _Run(self._runs, self._worker, queue, cells, devices, dispatcher, signals)
            if len(self._slots) == 1:
                run.work(self._slots[0])
            else:
                dispatcher.tokenise(items)
                with ThreadPoolExecutor(len(self._slots)) as pool:
                    ends = [pool.submit(run.work, slot) for slot in self._slots]
                for end in ends:
                    end.result()
        return queue.is_interrupted


class _Queue:
    """Groups of cells that slots take. Those that other grids hold come last, and those that other
    processes left no memory on the GPU."""

    def __init__(self, groups: Iterable[Iterable[Planned]], slots: int) -> None:
        self._groups = deque(map(deque, groups))
        self._elsewhere = deque[deque[Planned]]()
        self._slots = slots
        self._busy = 0
        self.is_stopped = False
        self._changed = Condition()
        self.is_interrupted = False

    def take(self) -> tuple[deque[Planned], bool] | None:
        """A group, and whether to wait for those who hold its cells; None if there is no more. It
        waits while other slots may give cells back."""
        with self._changed:
            while not self.is_stopped:
                if self._groups or self._elsewhere:
                    self._busy += 1
                    is_new = bool(self._groups)
                    return (self._groups if is_new else self._elsewhere).popleft(), not is_new
                if not self._busy:
                    break
                self._changed.wait()
        return None

    def give_back(self, rest: deque[Planned], elsewhere: deque[Planned]) -> None:
        """End a group with the rest, which has not run, and the cells that come last."""
        with self._changed:
            self._busy -= 1
            self._groups.extendleft([rest] if rest else [])
            self._elsewhere.extend([elsewhere] if elsewhere else [])
            self._changed.notify_all()

    def close_slot(self) -> bool:
        """Count a slot that ends early; false if it is the last."""
        with self._changed:
            self._slots -= 1
            return self._slots > 0

    def stop(self, *, is_interrupted: bool = False) -> None:
        with self._changed:
            self.is_stopped = True
            self.is_interrupted = self.is_interrupted or is_interrupted
            self._changed.notify_all()


@dataclass(frozen=True)
class _Run:
    """A run of cells, which its slots share. The dispatcher gets one call at a time."""

    runs: Path
    worker: tuple[str, ...]
    queue: _Queue
    cells: Locks
    devices: Locks
    dispatcher: Dispatcher
    signals: Signals
    lock: Lock = field(default_factory=Lock)
    again: dict[CellKey, float] = field(default_factory=dict)  # when cells are tried again

    def work(self, slot: Target) -> None:
        if slot.cores:
            os.sched_setaffinity(0, slot.cores)  # of this thread, and of what it starts
        try:
            while (taken := self.queue.take()) is not None:
                self._run_group(*taken, slot)
        except DeviceError as error:
            if not self.queue.close_slot():
                raise
            self.dispatcher.display.note(f"{error}; the other devices go on")

    def _run_group(self, group: deque[Planned], waits: bool, slot: Target) -> None:
        elsewhere = deque[Planned]()
        try:
            while group and not self.queue.is_stopped:
                item = group.popleft()
                on_wait = partial(self.dispatcher.display.waiting, name=item.name)
                with self.cells.holding(str(item.row_key), on_wait if waits else None) as is_ours:
                    if not is_ours or self._run_cell(item, slot):
                        elsewhere.append(item)
        except DeviceError:
            raise
        except BaseException:
            self.queue.stop()  # before other slots can take the rest
            raise
        finally:
            self.queue.give_back(group, elsewhere)

    def _run_cell(self, item: Planned, slot: Target) -> bool:
        """Run a cell, unless it need not run; whether it has to be tried again, once."""
        again_at = self.again.get(item.row_key)
        while again_at is not None and monotonic() < again_at and not self.signals.stops:
            sleep(0.1)
        with self.lock:  # one for both, since the rows of other slots change what fits
            if not self.dispatcher.begin(item):
                self.dispatcher.prepare(item)
                return False
        begun = monotonic()
        on_wait = partial(self.dispatcher.display.waiting, name=item.name)
        with self.devices.using(slot.device_name, on_wait):
            waited_s = monotonic() - begun
            with self.lock:
                self.dispatcher.waited(waited_s)
                run = self.dispatcher.prepare(item)
            if run is None:
                return False
            folder = run.folder(self.runs)
            row, outcome = run_cell(
                run, slot, folder, worker=self.worker, signals=self.signals,
                on_progress=partial(self.dispatcher.display.progress, name=item.name),
            )  # fmt: skip
            if row.status == BUSY and again_at is None:
                self.again[item.row_key] = monotonic() + AGAIN_S
                note = f"{run.name}: {outcome.message}; it is tried again after the other cells"
                self.dispatcher.display.note(note)
                return True
            keep(folder, row)
            with self.lock:
                self.dispatcher.ended((item, row))
            if row.status == "interrupted":
                self.queue.stop(is_interrupted=True)
            self._check_device(run, outcome, slot)
        return False

    def _check_device(self, run: Attempt, outcome: WorkerEnd, slot: Target) -> None:
        """Check that the GPU can still be used after a cell in which it failed."""
        failed = outcome.result is not None and outcome.result[DEVICE_FAILED]
        if not slot.gpu or outcome.status != "crashed" or not failed:
            return
        why = why_unusable(slot.gpu)
        if why is None:  # only that process failed, as by an illegal address
            self.dispatcher.display.note(
                f"{run.name}: {outcome.message}; another process can use the GPU"
            )
            return
        raise DeviceError(
            f"{outcome.message} ({slot.conditions.device}), and tried again: {why}; look at it "
            "with nvidia-smi and dmesg"
        )
