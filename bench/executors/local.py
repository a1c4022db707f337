"""Runs cells on a device of this machine, one after the other."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from time import monotonic

from bench.common.errors import DeviceError
from bench.executors.executor import Conductor, Progress
from bench.launch.cell_run import WORKER, CellRun, keep, run_cell
from bench.launch.locks import CELL_LOCKS, Locks, device_locks
from bench.launch.runner import Outcome
from bench.launch.signals import Signals
from bench.machine.conditions import Found
from bench.machine.gpu_trial import why_unusable
from bench.plan.planning import Planned
from bench.results.protocol import DEVICE_FAILED
from bench.results.store import cells_folder


class LocalExecutor:
    """Runs cells on a device, in turn with the other grids of this machine.

    Args:
        runs: the CSV, whose cells are shared with other grids.
        worker: the command that runs a cell; its last argument is the cell's folder.
    """

    def __init__(self, runs: Path, target: Found, worker: tuple[str, ...] = WORKER) -> None:
        self._runs = runs
        self._target = target
        self._worker = worker

    @property
    def kinds(self) -> Mapping[str, Found]:
        """The conditions of the device."""
        return {self._target.conditions.conditions_id: self._target}

    def run(
        self,
        items: Sequence[Planned],
        conductor: Conductor,
        progress: Progress,
        signals: Signals,
    ) -> bool:
        """As `bench.executors.executor.Executor.run`."""

        def name(item: Planned) -> str:
            return str((item.cell.cell_id, item.conditions_id, item.repeat))

        with (
            Locks(cells_folder(self._runs) / CELL_LOCKS, signals, progress.waiting) as cells,
            Locks(device_locks(), signals, progress.waiting) as devices,
        ):
            for item in cells.each(items, name):
                needs_device = conductor.begin(item)
                begun = monotonic()
                with devices.turn(self._target.device_name) if needs_device else nullcontext():
                    conductor.waited(monotonic() - begun)
                    run = conductor.prepare(item)
                    if run is None:
                        continue
                    folder = run.folder(self._runs)
                    row, outcome = run_cell(
                        run, self._target, folder, worker=self._worker,
                        on_progress=progress.progress, signals=signals,
                    )  # fmt: skip
                    keep(folder, row)
                    conductor.ended(item, row)
                    self._check_device(run, outcome, progress)
                    if row.status == "interrupted":
                        return True
        return False

    def _check_device(self, run: CellRun, outcome: Outcome, progress: Progress) -> None:
        """Check that the GPU can still be used after a cell in which it failed.

        Raises:
            DeviceError: if not.
        """
        failed = outcome.result is not None and outcome.result[DEVICE_FAILED]
        if not self._target.gpu or outcome.status != "crashed" or not failed:
            return
        why = why_unusable(self._target.gpu)
        if why is None:  # only that process failed, as by an illegal address
            progress.note(f"{run.name}: {outcome.message}; another process can use the GPU")
            return
        raise DeviceError(
            f"{outcome.message} ({self._target.conditions.device}), and tried again: {why}; look "
            "at it with nvidia-smi and dmesg"
        )
