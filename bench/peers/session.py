"""Runs the processes of a comparison: fresh ones that alternate, one at a time."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import job as jobs
from bench.cell import Cell
from bench.conditions import Conditions
from bench.job import Job
from bench.locks import Locks, device_locks
from bench.models import Model
from bench.peers import request as requests
from bench.peers.names import COMPILED, OURS, eager
from bench.peers.request import ANSWER, Request
from bench.peers.rows import Attempt, setting_of
from bench.runner import Outcome, Signals, run_worker
from bench.signals import StoppedError

OnProcess = Callable[[int, str], None]
"""Told how many processes have run, and in words what comes next."""

_PHASE_SCORED: Final = "measure"
"""The phase that a process, a cell's worker too, begins when it has its dev score."""
_NUMERICS: Final = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")


class StartError(Exception):
    """The first weights could not be written, so there is nothing to compare. One line."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared, where.

    Attributes:
        sides: ours and the peers'.
        loss_steps: training steps whose losses are compared; 0 for none.
        whole: compare whole cells, from process start to dev score, and not steps.
        process: the command that does what the folder named behind it asks for.
        worker: the command that runs the cell in the folder named behind it.
    """

    cells: Sequence[Cell]
    sides: Sequence[str]
    rounds: int
    loss_steps: int
    budget_s: float
    whole: bool
    model: Model
    conditions: Conditions
    device_name: str
    data: Path | None
    timeout_s: float | None = None
    process: tuple[str, ...] = (sys.executable, "-m", "bench.peers.process")
    worker: tuple[str, ...] = (sys.executable, "-m", "bench.worker")

    @property
    def processes(self) -> int:
        """How many there will be."""
        return 1 + self.rounds * len(self.cells) * len(self.sides)

    def prepare(self, folder: Path, signals: Signals) -> bool:
        """Write cells and first weights to a folder; whether the pooler is newly initialised.

        Raises:
            StartError: if there is nothing to begin with.
            StoppedError: if the user stopped it.
            DiskFullError: if something can't be written.
        """
        for cell in self.cells:
            home = self._home(folder, cell)
            home.mkdir(parents=True)
            (home / jobs.FILE).write_text(self._job(cell).to_json(), encoding="utf-8")
        request = Request(
            kind=requests.START,
            side=OURS,
            cells=tuple(str(self._home(folder, cell)) for cell in self.cells),
            checkpoint=str(folder / requests.CHECKPOINT),
        )
        outcome, _ = self._run(folder / "processes" / "start", request, signals)
        if outcome.status == "interrupted":
            raise StoppedError
        if outcome.status != "ok":
            raise StartError(f"the first weights can't be made: {outcome.message}")
        return bool(_answer(outcome)["new_pooler"])

    def attempts(
        self, folder: Path, new_pooler: bool, signals: Signals, on_process: OnProcess
    ) -> Iterator[Attempt]:
        """Run the processes, one after the other. A side that fails has no further rounds.

        Raises:
            StoppedError: if the user stopped it; the process that ran then is no attempt.
            DiskFullError: if a folder or lock can't be written.
        """
        done = 0

        def waits() -> None:
            on_process(done, "waits for another run on this device")

        failed: set[tuple[str, str]] = set()
        with Locks(device_locks(), signals, waits) as devices:
            for done, (number, cell, side) in enumerate(self.turns(), start=1):
                if (cell.name, side) in failed:
                    continue
                on_process(done, f"{setting_of(cell)}: {side}, round {number + 1} of {self.rounds}")
                with devices.turn(self.device_name):
                    attempt = self._attempt(folder, number, cell, side, new_pooler, signals)
                if attempt.status == "interrupted":
                    raise StoppedError
                if attempt.status != "ok":
                    failed.add((cell.name, side))
                yield attempt

    def turns(self) -> Iterator[tuple[int, Cell, str]]:
        """Round, cell and side of each process in order.

        Rounds are outermost, and each begins with another side, so that neither a drift of the
        machine nor what the process before left behind favours one.
        """
        for number in range(self.rounds):
            for place, cell in enumerate(self.cells):
                first = (number + place) % len(self.sides)
                for side in (*self.sides[first:], *self.sides[:first]):
                    yield number, cell, side

    def _attempt(
        self,
        folder: Path,
        number: int,
        cell: Cell,
        side: str,
        new_pooler: bool,
        signals: Signals,
    ) -> Attempt:
        place = folder / "processes" / f"{setting_of(cell)}-{side}-{number}"
        if self.whole and side == OURS:
            place.mkdir(parents=True)
            (place / jobs.FILE).write_text(self._job(cell).to_json(), encoding="utf-8")
            outcome, scored_s = self._watched(place, (*self.worker, str(place)), signals)
            answer = (outcome.result or {}).get("columns", {})
        else:
            keeps = number == 0 and side in (OURS, COMPILED, eager(self.sides))
            request = Request(
                kind=requests.WHOLE if self.whole else requests.STEPS,
                side=side,
                cells=(str(self._home(folder, cell)),),
                checkpoint=str(folder / requests.CHECKPOINT),
                loss_steps=self.loss_steps if keeps else 0,
                budget_s=self.budget_s,
                new_pooler=new_pooler,
            )
            outcome, scored_s = self._run(place, request, signals)
            answer = _answer(outcome)
        status, message = outcome.status, outcome.message
        if status == "ok" and self.whole and scored_s is None:
            status, message = "crashed", "it ended without saying that it had its dev score"
        return Attempt(
            cell=cell,
            side=side,
            round=number,
            status=status,
            message=message,
            answer=answer if status == "ok" else {},
            scored_s=scored_s,
            peak_rss_mib=outcome.peak_rss_mib,
        )

    def _run(self, place: Path, request: Request, signals: Signals) -> tuple[Outcome, float | None]:
        place.mkdir(parents=True)
        request.write(place)
        return self._watched(place, (*self.process, str(place)), signals)

    def _watched(
        self, place: Path, argv: Sequence[str], signals: Signals
    ) -> tuple[Outcome, float | None]:
        """How a process ended, and when it said that it had its dev score."""
        launched = time.monotonic()
        scored: list[float] = []

        def heard(message: dict[str, Any]) -> None:
            if message.get("phase") == _PHASE_SCORED:
                scored.append(time.monotonic() - launched)

        outcome = run_worker(
            place,
            argv,
            env=self._environment(place),
            timeout_s=self.timeout_s,
            on_progress=heard,
            signals=signals,
        )
        return outcome, scored[0] if scored else None

    def _environment(self, place: Path) -> dict[str, str]:
        """That of a cell's worker; a compiler's cache for this side of this setting alone, so that
        what compiling takes does not depend on what ran before; and nothing asks a hub."""
        threads = str(self.conditions.threads)
        side, _, _ = place.name.rpartition("-")
        return {
            **{name: value for name, value in os.environ.items() if name not in _NUMERICS},
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "HF_HUB_OFFLINE": "1",
            "MKL_NUM_THREADS": threads,
            "OMP_NUM_THREADS": threads,
            "TORCHINDUCTOR_CACHE_DIR": str(place.parent / f"compiled-{side}"),
        }

    def _home(self, folder: Path, cell: Cell) -> Path:
        return folder / "cells" / setting_of(cell)

    def _job(self, cell: Cell) -> Job:
        model = self.model
        return Job(
            cell=cell,
            conditions_id=self.conditions.conditions_id,
            attempt=1,
            device=self.conditions.device,
            threads=self.conditions.threads,
            checkpoint=None if model.checkpoint is None else str(model.checkpoint.resolve()),
            geometry=model.geometry,
            tokenizer=str(model.tokenizer.resolve()),
            data=None if self.data is None else str(self.data.resolve()),
            keep=False,
            code_version=self.conditions.code_version,
        )


def _answer(outcome: Outcome) -> Mapping[str, Any]:
    columns = (outcome.result or {}).get("columns", {})
    found = columns.get(ANSWER, {})
    return found if isinstance(found, dict) else {}
