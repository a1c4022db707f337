"""Runs the processes of a comparison: fresh ones that alternate, one at a time."""

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.common.errors import StoppedError
from bench.data.tokens import share
from bench.launch.locks import Locks, device_locks
from bench.launch.runner import Outcome, Signals, run_worker
from bench.machine.conditions import Conditions
from bench.machine.environment import worker_environment
from bench.peers import request as requests
from bench.peers.names import COMPILED, OURS, UNTUNED, eager
from bench.peers.request import ANSWER, COMPILE_TIMEOUT, Request
from bench.peers.rows import NOT_COMPILED, Attempt, missing_rounds, setting_of
from bench.plan import job as jobs
from bench.plan.cell import Cell
from bench.plan.job import Job
from bench.plan.models import Model
from minbert.assets.cache import cache_folder
from minbert.data.tasks import TaskData

OnProcess = Callable[[int, str], None]
"""Told how many processes have run, and in words what comes next."""

_PHASE_SCORED: Final = "measure"
"""The phase that a process, a cell's worker too, begins when it has its dev score."""
_TOKENS: Final = "tokens"
"""The folder of token ids in the user's cache."""


class StartError(Exception):
    """The first weights could not be written, so there is nothing to compare. One line."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared, where.

    Attributes:
        sides: ours and the peers'.
        loss_steps: training steps whose losses are compared; 0 for none.
        whole: compare whole cells, from process start to dev score, and not steps.
        compile_timeout_s: seconds after which a peer that compiles is left out; None: never.
        on_progress: takes what a running process says of itself, as it comes.
        started: what tells its rounds from those of other comparisons.
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
    compile_timeout_s: float | None = None
    on_progress: Callable[[dict[str, Any]], None] | None = None
    started: str = field(default_factory=lambda: secrets.token_hex(4))
    process: tuple[str, ...] = (sys.executable, "-m", "bench.peers.process")
    worker: tuple[str, ...] = (sys.executable, "-m", "bench.worker")

    def prepare(self, folder: Path, examples: TaskData, signals: Signals) -> bool:
        """Write cells and first weights to a folder; whether the pooler is newly initialised.

        Examples are tokenised before the steps of any side, so that none is the one to do it.

        Raises:
            StartError: if there is nothing to begin with.
            StoppedError: if the user stopped it.
            DiskFullError: if something can't be written.
        """
        if not self.whole:
            share(examples, self.cells[0], self.model.tokenizer, self.data)
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
        self,
        folder: Path,
        new_pooler: bool,
        done: Sequence[Attempt],
        signals: Signals,
        on_process: OnProcess,
    ) -> Iterator[Attempt]:
        """Run the processes that are missing, one after the other.

        A side that fails, or is not compiled in time, has no further rounds.

        Args:
            done: those that have run.

        Raises:
            StoppedError: if the user stopped it; the process that ran then is no attempt.
            DiskFullError: if a folder or lock can't be written.
        """
        number = 0

        def waits() -> None:
            on_process(number, "waits for another run on this device")

        failed: set[tuple[str, str]] = set()
        drawn = {(a.cell.name, a.side) for a in done if a.answer.get("losses")}
        with Locks(device_locks(), signals, waits) as devices:
            for number, (turn, cell, side) in enumerate(self.turns(done, failed), start=1):
                key = cell.name, side
                on_process(number, f"{setting_of(cell)}: {side}, round {turn + 1} of {self.rounds}")
                compared = side in (OURS, COMPILED, eager(self.sides)) and key not in drawn
                request = Request(
                    kind=requests.WHOLE if self.whole else requests.STEPS,
                    side=side,
                    cells=(str(self._home(folder, cell)),),
                    checkpoint=str(folder / requests.CHECKPOINT),
                    loss_steps=self.loss_steps if compared else 0,
                    budget_s=self.budget_s,
                    compile_timeout_s=self.compile_timeout_s,
                    new_pooler=new_pooler,
                )
                with devices.turn(self.device_name):
                    attempt = self._attempt(folder, turn, cell, request, signals)
                if attempt.status == "interrupted":
                    raise StoppedError
                if attempt.status != "ok":
                    failed.add(key)
                elif compared:
                    drawn.add(key)
                yield attempt

    def turns(
        self, done: Sequence[Attempt] = (), failed: Set[tuple[str, str]] = frozenset()
    ) -> Iterator[tuple[int, Cell, str]]:
        """Round, cell and side of each process that is missing, in order.

        Rounds are outermost, and each begins with another side, so that neither a drift of the
        machine nor what the process before left behind favours one. Ours takes part in all that a
        peer is left for.

        Args:
            done: the processes that have run.
            failed: names of cells, and their sides, that have no further rounds; looked at when a
                round begins.
        """
        missing = {
            (cell.name, side): missing_rounds(done, cell, side, self.rounds)
            for cell in self.cells
            for side in self.sides
            if side != OURS
        }
        for number in range(self.rounds):
            for place, cell in enumerate(self.cells):
                left = [side for side in self.sides if (cell.name, side) not in failed]
                peers = [side for side in left if missing.get((cell.name, side), 0) > number]
                sides = [side for side in left if side == OURS or side in peers] if peers else []
                first = (number + place) % len(sides) if sides else 0
                for side in (*sides[first:], *sides[:first]):
                    yield number, cell, side

    def _attempt(
        self, folder: Path, number: int, cell: Cell, request: Request, signals: Signals
    ) -> Attempt:
        side = request.side
        place = process_folder(folder, cell, side, number)
        if self.whole and side == OURS:
            place.mkdir(parents=True)
            (place / jobs.FILE).write_text(self._job(cell).to_json(), encoding="utf-8")
            outcome, scored_s = self._watched(place, (*self.worker, str(place)), side, signals)
            answer = (outcome.result or {}).get("columns", {})
        else:
            outcome, scored_s = self._run(place, request, signals)
            answer = _answer(outcome)
        status, message = outcome.status, outcome.message
        if status == "ok" and self.whole and scored_s is None:
            status, message = "crashed", "it ended without saying that it had its dev score"
        if status == "ok" and COMPILE_TIMEOUT in answer:
            status = NOT_COMPILED
            message = f"not compiled within {answer[COMPILE_TIMEOUT]:g} s"
        return Attempt(
            cell=cell,
            side=side,
            round=f"{self.started}-{number}",
            status=status,
            message=message,
            answer=answer if status in ("ok", NOT_COMPILED) else {},
            scored_s=scored_s,
            peak_rss_mib=outcome.peak_rss_mib,
        )

    def _run(self, place: Path, request: Request, signals: Signals) -> tuple[Outcome, float | None]:
        place.mkdir(parents=True)
        request.write(place)
        return self._watched(place, (*self.process, str(place)), request.side, signals)

    def _watched(
        self, place: Path, argv: Sequence[str], side: str, signals: Signals
    ) -> tuple[Outcome, float | None]:
        """How a process ended, and when it said that it had its dev score."""
        env = self._environment(place, side)
        launched = time.monotonic()
        scored: list[float] = []

        def heard(message: dict[str, Any]) -> None:
            if message.get("phase") == _PHASE_SCORED:
                scored.append(time.monotonic() - launched)
            if self.on_progress is not None:
                self.on_progress(message)

        outcome = run_worker(
            place,
            argv,
            env=env,
            timeout_s=self.timeout_s,
            on_progress=heard,
            signals=signals,
        )
        return outcome, scored[0] if scored else None

    def _environment(self, place: Path, side: str) -> dict[str, str]:
        """What a side's process gets: a compiler's cache for this side of this setting alone, so
        that what compiling takes does not depend on what ran before; for whole cells a cache
        without token ids, so that ours has to make them too; of the GPUs only its own, as
        the Trainer takes all that it sees; and nothing asks a hub."""
        threads, setting = self.conditions.threads, place.name.rpartition("-")[0]
        gpu = "" if self.conditions.device == "cpu" else self.device_name
        found = worker_environment(os.environ, threads, gpu, tuned=side not in UNTUNED)
        found["HF_HUB_OFFLINE"] = "1"
        found["TORCHINDUCTOR_CACHE_DIR"] = str(place.parent / f"compiled-{setting}")
        if self.whole:
            found["MINBERT_CACHE"] = str(_without_tokens(place.with_name(f"cache-{place.name}")))
        return found

    def _home(self, folder: Path, cell: Cell) -> Path:
        return folder / "cells" / setting_of(cell)

    def _job(self, cell: Cell) -> Job:
        model = self.model
        return Job(
            cell=cell,
            conditions_id=self.conditions.conditions_id,
            attempt=1,
            device=self.conditions.worker_device,
            threads=self.conditions.threads,
            checkpoint=None if model.checkpoint is None else str(model.checkpoint.resolve()),
            geometry=model.geometry,
            tokenizer=str(model.tokenizer.resolve()),
            data=None if self.data is None else str(self.data.resolve()),
            keep=False,
            code_version=self.conditions.code_version,
        )


def process_folder(folder: Path, cell: Cell, side: str, number: int) -> Path:
    """The folder, in that of a comparison, of a side's process in a round."""
    return folder / "processes" / f"{setting_of(cell)}-{side}-{number}"


def _answer(outcome: Outcome) -> Mapping[str, Any]:
    columns = (outcome.result or {}).get("columns", {})
    found = columns.get(ANSWER, {})
    return found if isinstance(found, dict) else {}


def _without_tokens(folder: Path) -> Path:
    """A folder that stands for the user's cache, but holds no token ids."""
    folder.mkdir()
    kept = cache_folder()
    for path in kept.iterdir() if kept.is_dir() else ():
        if path.name != _TOKENS:
            (folder / path.name).symlink_to(path.resolve())
    return folder
