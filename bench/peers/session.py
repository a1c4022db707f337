"""Run the processes of a comparison: fresh ones that alternate, one at a time."""

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.common.errors import StoppedError
from bench.examples.tokens import share
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
"""Called with the number of the next process and its description."""

_PHASE_SCORED: Final = "measure"
"""The phase that a process, like a cell's worker, begins once its dev score is known."""
_TOKENS: Final = "tokens"
"""The folder of token ids in the user's cache."""


class StartError(Exception):
    """The initial weights could not be written, so there is nothing to compare. One line."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison: cells, sides, and the machine to run on.

    Attributes:
        sides: ours and the baselines.
        loss_steps: training steps whose losses are compared; 0 for none.
        whole: compare whole cells, from process start to dev score, instead of steps.
        compile_timeout_s: seconds after which the compiled baseline is left out; None: never.
        on_progress: called with the progress messages of a running process.
        started: prefix of its rounds' ids, which distinguishes them from other comparisons.
        process: the command that carries out the request in a folder, its last argument.
        worker: the command that runs the cell in a folder, its last argument.
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
        """Write cells and initial weights to a folder.

        Examples are tokenised first, so that no side's steps include it.

        Returns:
            Whether the pooler is newly initialised.

        Raises:
            StartError: if the weights can't be made.
            StoppedError: if the user stopped it.
            DiskFullError: if something can't be written.
        """
        if not self.whole:
            share(examples, self.cells[0], self.model.tokenizer, self.data)
        for cell in self.cells:
            cell_folder = self._cell_folder(folder, cell)
            cell_folder.mkdir(parents=True)
            (cell_folder / jobs.FILE).write_text(self._job(cell).to_json(), encoding="utf-8")
        request = Request(
            kind=requests.START,
            side=OURS,
            cells=tuple(str(self._cell_folder(folder, cell)) for cell in self.cells),
            checkpoint=str(folder / requests.CHECKPOINT),
        )
        outcome, _ = self._run(folder / "processes" / "start", request, signals)
        if outcome.status == "interrupted":
            raise StoppedError
        if outcome.status != "ok":
            raise StartError(f"the initial weights can't be made: {outcome.message}")
        return bool(_answer(outcome)["new_pooler"])

    def attempts(
        self,
        folder: Path,
        new_pooler: bool,
        done: Sequence[Attempt],
        signals: Signals,
        on_process: OnProcess,
    ) -> Iterator[Attempt]:
        """Run the missing processes, one after the other.

        A side that fails, or is not compiled in time, has no further rounds.

        Args:
            done: attempts of earlier runs.

        Raises:
            StoppedError: if the user stopped it; the process running then is not an attempt.
            DiskFullError: if a folder or lock can't be written.
        """
        number = 0

        def report_waiting() -> None:
            on_process(number, "waiting for another run on this device")

        failed: set[tuple[str, str]] = set()
        with_losses = {(a.cell.name, a.side) for a in done if a.answer.get("losses")}
        with Locks(device_locks(), signals, report_waiting) as devices:
            for number, (turn, cell, side) in enumerate(self.turns(done, failed), start=1):
                key = cell.name, side
                on_process(number, f"{setting_of(cell)}: {side}, round {turn + 1} of {self.rounds}")
                needs_losses = (
                    side in (OURS, COMPILED, eager(self.sides)) and key not in with_losses
                )
                request = Request(
                    kind=requests.WHOLE if self.whole else requests.STEPS,
                    side=side,
                    cells=(str(self._cell_folder(folder, cell)),),
                    checkpoint=str(folder / requests.CHECKPOINT),
                    loss_steps=self.loss_steps if needs_losses else 0,
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
                elif needs_losses:
                    with_losses.add(key)
                yield attempt

    def turns(
        self, done: Sequence[Attempt] = (), failed: Set[tuple[str, str]] = frozenset()
    ) -> Iterator[tuple[int, Cell, str]]:
        """Round, cell and side of each missing process, in order.

        Rounds are outermost, and each begins with another side, so that neither a drift of the
        machine nor effects of the previous process favour one. Ours takes part in each round in
        which a baseline does.

        Args:
            done: attempts of earlier runs.
            failed: names of cells and sides without further rounds; read at the start of each
                round of a cell.
        """
        missing = {
            (cell.name, side): missing_rounds(done, cell, side, self.rounds)
            for cell in self.cells
            for side in self.sides
            if side != OURS
        }
        for number in range(self.rounds):
            for place, cell in enumerate(self.cells):
                able = [side for side in self.sides if (cell.name, side) not in failed]
                baselines = [side for side in able if missing.get((cell.name, side), 0) > number]
                sides = [side for side in able if side == OURS or side in baselines]
                sides = sides if baselines else []
                first = (number + place) % len(sides) if sides else 0
                for side in (*sides[first:], *sides[:first]):
                    yield number, cell, side

    def _attempt(
        self, folder: Path, number: int, cell: Cell, request: Request, signals: Signals
    ) -> Attempt:
        side = request.side
        run_folder = process_folder(folder, cell, side, number)
        if self.whole and side == OURS:
            run_folder.mkdir(parents=True)
            (run_folder / jobs.FILE).write_text(self._job(cell).to_json(), encoding="utf-8")
            outcome, scored_s = self._watch(
                run_folder, (*self.worker, str(run_folder)), side, signals
            )
            answer = (outcome.result or {}).get("columns", {})
        else:
            outcome, scored_s = self._run(run_folder, request, signals)
            answer = _answer(outcome)
        status, message = outcome.status, outcome.message
        if status == "ok" and self.whole and scored_s is None:
            status, message = "crashed", "it ended without reporting its dev score"
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

    def _run(
        self, folder: Path, request: Request, signals: Signals
    ) -> tuple[Outcome, float | None]:
        folder.mkdir(parents=True)
        request.write(folder)
        return self._watch(folder, (*self.process, str(folder)), request.side, signals)

    def _watch(
        self, folder: Path, argv: Sequence[str], side: str, signals: Signals
    ) -> tuple[Outcome, float | None]:
        """Run a process; returns its outcome, and the seconds from launch to its dev score."""
        env = self._environment(folder, side)
        launched = time.monotonic()
        scored: list[float] = []

        def receive(message: dict[str, Any]) -> None:
            if message.get("phase") == _PHASE_SCORED:
                scored.append(time.monotonic() - launched)
            if self.on_progress is not None:
                self.on_progress(message)

        outcome = run_worker(
            folder,
            argv,
            env=env,
            timeout_s=self.timeout_s,
            on_progress=receive,
            signals=signals,
        )
        return outcome, scored[0] if scored else None

    def _environment(self, folder: Path, side: str) -> dict[str, str]:
        """The environment of a side's process.

        A compiler cache for this side of this setting alone, so that compile times do not depend
        on earlier processes; for whole cells a cache without token ids, so that ours has to make
        them too; only its own GPU, since the Trainer uses all visible ones; no access to a hub.
        """
        threads, setting = self.conditions.threads, folder.name.rpartition("-")[0]
        gpu = "" if self.conditions.device == "cpu" else self.device_name
        environment = worker_environment(os.environ, threads, gpu, tuned=side not in UNTUNED)
        environment["HF_HUB_OFFLINE"] = "1"
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder.parent / f"compiled-{setting}")
        if self.whole:
            environment["MINBERT_CACHE"] = str(
                _without_tokens(folder.with_name(f"cache-{folder.name}"))
            )
        return environment

    def _cell_folder(self, folder: Path, cell: Cell) -> Path:
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
    """The folder, within that of a comparison, of a side's process in a round."""
    return folder / "processes" / f"{setting_of(cell)}-{side}-{number}"


def _answer(outcome: Outcome) -> Mapping[str, Any]:
    columns = (outcome.result or {}).get("columns", {})
    answer = columns.get(ANSWER, {})
    return answer if isinstance(answer, dict) else {}


def _without_tokens(folder: Path) -> Path:
    """A folder with links to the user's cache, except its token ids."""
    folder.mkdir()
    cache = cache_folder()
    for path in cache.iterdir() if cache.is_dir() else ():
        if path.name != _TOKENS:
            (folder / path.name).symlink_to(path.resolve())
    return folder
