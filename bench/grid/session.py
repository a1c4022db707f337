"""One run of a grid: its cells in order, then the report."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

import click

from bench.analysis.recommendation import recommended_from
from bench.common.errors import DeviceError, DiskFullError, InputError, StoppedError
from bench.common.files import write_atomically
from bench.examples.tokenizers import tokenizer_of
from bench.examples.tokens import share
from bench.forecast.outlook import Forecaster, Outlook, outlook_on
from bench.grid.display import Display
from bench.grid.resume import fallen_back, how_to_go_on, orphaned_outcome, statuses, to_run_again
from bench.launch.locks import CELL_LOCKS, Locks, device_locks
from bench.launch.runner import Outcome, Signals, run_worker
from bench.machine.conditions import Conditions
from bench.machine.environment import command_line, worker_environment
from bench.machine.gpu_trial import why_unusable
from bench.plan import job as jobs
from bench.plan.budget import Budget, needs_no_row, was_left_out
from bench.plan.cell import CANDIDATE, MINBERT, Cell, Columns
from bench.plan.columns import row_of, values_of
from bench.plan.gridfile import Grid
from bench.plan.job import Job
from bench.plan.models import Model
from bench.plan.planning import RERUN, SKIP, Planned, count_cells, scores_elsewhere, scores_sentence
from bench.plan.pruning import dominating, why_skipped
from bench.plan.rows import CellKey, Row
from bench.references.facts import find_facts, tokens_of
from bench.results.facts import DataFacts, facts_of, read_facts, update_facts
from bench.results.kept import KeptWeights
from bench.results.overhead import Account
from bench.results.predictions import values_from
from bench.results.protocol import DEVICE_FAILED
from bench.results.rescoring import read_results
from bench.results.row import keep_row, kept_row, measured_row
from bench.results.store import Store, cell_folder, cells_folder, plan_file
from minbert.data.tasks import Data, Folds, TaskData, for_search
from minbert.data.tasks.prepared import is_prepared, mark_used
from minbert.errors import InputError as MinbertInputError

INTERRUPTED: Final = 130


@dataclass(frozen=True, kw_only=True)
class Session:
    """One run of a grid, and everything that its cells share.

    `models` are by name. `data` are the examples of cells without a fold; those of the others are
    in `folds`. `keep` is whether every cell keeps its trained weights.
    `device_name` is as in `bench.machine.conditions.Found`; `has_bf16` is false if the device only
    emulates bf16. `worker` is the command that runs a cell; its last argument is the cell's folder.
    `references` is `bench.references.client.find_references`; None: scores get no reference points.
    `metric` decides in the report; None: the rows' own. `adapter_configs` has the JSON of each
    adapter_config.json by its name in cells.
    """

    grid: Grid
    conditions: Conditions
    models: Mapping[str, Model]
    data: Data
    folds: Folds | None = None
    data_folder: Path | None
    source: str = ""
    store: Store
    reports: Path
    keep: bool
    timeout_s: float | None
    arguments: tuple[str, ...]
    device_name: str
    has_bf16: bool = True
    worker: tuple[str, ...] = (sys.executable, "-m", "bench.worker")
    metric: str | None = None
    forecaster: Forecaster | None = None
    references: Callable[..., Iterable[str]] | None = None
    budget: Budget = field(default_factory=Budget)
    account: Account = field(default_factory=Account)
    adapter_configs: Mapping[str, str] = field(default_factory=dict)

    def run(self, rounds: Iterable[list[Planned]], as_json: bool = False) -> int:
        """Run the plans, render the report, and return the exit code.

        Args:
            rounds: plans that run one after the other, each made when the one before has ended. The
                last is the grid's own, whose cells decide the exit code.
        """
        planned: list[Planned] = []
        ended = "ok"
        with Signals() as signals:
            try:
                for planned in rounds:
                    ended = self._run_round(planned, signals)
                    if signals.stops > 1:
                        sys.stderr.writelines(how_to_go_on(self.arguments))
                        return INTERRUPTED
                    if ended != "ok" or self._lacks_tries(planned):
                        break
            except InputError as error:  # of a plan that earlier results make impossible
                sys.stderr.write(f"stopped: {error}\n")
                ended = "stopped"
        return self._close(planned, ended, as_json)

    def _lacks_tries(self, planned: list[Planned]) -> bool:
        """Whether candidates of a search were left out, so that the best rates can't be found."""
        return any(
            item.cell.learning_rate_source == CANDIDATE and item.key in self.budget.left_out
            for item in planned
        )

    def _run_round(self, planned: list[Planned], signals: Signals) -> str:
        """Run a plan; returns `ok`, `interrupted` or `stopped`."""
        try:
            outlook = outlook_on(planned, self.forecaster, signals)
        except StoppedError:
            return "interrupted"
        with Display(len(planned), len(planned) - len(outlook.to_run)) as display:
            try:
                self._write_plan(planned)
                if elsewhere := scores_elsewhere(planned):
                    display.note(scores_sentence(elsewhere))
                if self._run_cells(outlook, signals, display):
                    return "interrupted"
            except StoppedError:
                return "interrupted"
            except (DeviceError, DiskFullError, InputError, OSError) as error:
                display.note(f"stopped: {error}; finished cells are kept")
                return "stopped"
        return "ok"

    def _run_cells(self, outlook: Outlook, signals: Signals, display: Display) -> bool:
        """Run the cells that no other grid has run meanwhile; true if the user stopped it."""

        def on_wait() -> None:
            display.progress({"phase": "waiting for another grid"})

        cells = cells_folder(self.store.path) / CELL_LOCKS
        with (
            Locks(cells, signals, on_wait) as cell_locks,
            Locks(device_locks(), signals, on_wait) as devices,
        ):
            self._find_references(outlook.to_run, devices, signals, display)
            for item in cell_locks.each(outlook.to_run, lambda item: str(self._key(item))):
                cell_s, rest_s = outlook.begin(item.cell)
                rest_s = None if rest_s is None else min(rest_s, self.budget.left_s())
                display.start(item.name, cell_s, rest_s)
                asked = self.account.now()
                with self._turn(item, devices, outlook):
                    self.account.waited_since(asked)
                    key = self._key(item)
                    row, attempt = self.store.last(*key), self.store.next_attempt(*key)
                    others = row is not None and attempt > item.attempt
                    if row is None or not others:
                        now = replace(item, attempt=max(attempt, item.attempt))
                        row = self._run_or_skip(now, row, signals, display, outlook)
                    outlook.learn(row)
                if others:
                    display.note(f"{item.name}: another grid has run it meanwhile")
                display.finish(row, item.prefix)
                if row.status == "interrupted" and not others:
                    return True
        return False

    def _find_references(
        self, to_run: Sequence[Planned], devices: Locks, signals: Signals, display: Display
    ) -> None:
        """Find what is in the data, and what the scores of the cells that will run can be compared
        with, before they do."""
        planned = [self._job(item) for item in to_run if item.action == "run"]
        if not isinstance(self.data, TaskData):
            return
        engine = next((item.cell.engine for item in to_run), MINBERT)
        facts = self._facts(self.data, engine, display)
        if self.references is None or not planned:
            return
        display.start("reference points")
        asked = self.account.now()
        with devices.turn(self.device_name):
            self.account.waited_since(asked)
            notes = self.references(
                self.store.path,
                self.data.digest[:16],
                facts,
                planned,
                gpu="" if self.conditions.device == "cpu" else self.device_name,
                timeout_s=self.timeout_s,
                on_progress=display.progress,
                signals=signals,
            )
            for note in notes:
                display.note(note)

    def _facts(self, data: TaskData, engine: str, display: Display) -> DataFacts:
        """The facts on the examples, of all folds together, kept with the results, in tokens of
        the first model."""
        digest = data.digest[:16]
        known = read_facts(self.store.path).get(digest)
        whole = data if self.folds is None else self.folds.whole
        model = next(iter(self.models.values()))
        longest = model.config.max_position_embeddings
        try:
            tokens = tokens_of(model.tokenizer, longest)
            if known is not None and known.describes(data, self.source, tokens):
                return known
            display.start("checks of the data")
            facts = find_facts(
                whole,
                self.source,
                tokenizer_of(engine, model.tokenizer),
                tokens,
                longest,
                lambda _number, name: display.progress({"phase": name}),
            ).without_texts()
        except (MinbertInputError, InputError):  # of the vocabulary: each worker reports it
            return known or facts_of(whole, self.source)
        return update_facts(self.store.path, digest, facts.with_scores_of)

    def _turn(
        self, item: Planned, devices: Locks, outlook: Outlook
    ) -> AbstractContextManager[None]:
        """A turn on the device; none, without waiting, for a cell that the budget leaves out."""
        fits = self.budget.fits(outlook.time_s(item.cell))
        return devices.turn(self.device_name) if fits else nullcontext()

    def _run_or_skip(
        self, item: Planned, last: Row | None, signals: Signals, display: Display, outlook: Outlook
    ) -> Row:
        """The row of a cell after running or skipping it, given its latest row so far."""
        why = self._why_skipped(item)
        row = self._recovered(item, display, outlook) if why is None else None
        if row is None:
            why = why or self.budget.leave_out(item.key, outlook.time_s(item.cell))
            if why is None:
                row = self._run_cell(item, signals, display, outlook)
            else:
                [planned] = self._planned_rows([item])
                row = replace(planned, attempt=item.attempt, status="skipped", message=why)
                if needs_no_row(last, why):
                    return row
        self.store.append(row)
        return row

    def _why_skipped(self, item: Planned) -> str | None:
        """Why a cell can't run, or would run out of memory and was not asked for; else None."""
        if item.action == SKIP:
            return item.reason
        if item.reason.startswith(RERUN):
            return None
        cause = dominating(item.cell, self.conditions.conditions_id, self.store.out_of_memory)
        return None if cause is None else why_skipped(item.cell, cause)

    def _key(self, item: Planned) -> CellKey:
        return item.cell.cell_id, self.conditions.conditions_id, item.repeat

    def _folder(self, item: Planned) -> Path:
        return cell_folder(self.store.path, item.cell.name, *self._key(item), item.attempt)

    def _run_cell(self, item: Planned, signals: Signals, display: Display, outlook: Outlook) -> Row:
        folder, job, expected = self._folder(item), self._job(item), outlook.columns(item.cell)
        if note := self._weights.note(item.cell):
            display.note(note)
        self._use_examples()
        argv = [*self.worker, str(folder.resolve())]
        gpu = "" if self.conditions.device == "cpu" else self.device_name
        env = worker_environment(os.environ, self.conditions.threads, gpu)
        # before the first worker starts: otherwise that one alone would spend time on it
        model = self.models[item.cell.model]
        share(self._data_of(item.cell), item.cell, model.tokenizer, self.data_folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / jobs.FILE, job.to_json().encode())
            write_atomically(folder / "command.txt", f"{command_line(env, argv)}\n".encode())
        except OSError as error:
            raise DiskFullError(f"{folder}: {error.strerror}") from error
        outcome = run_worker(
            folder,
            argv,
            env=env,
            timeout_s=self.timeout_s,
            on_progress=display.progress,
            signals=signals,
        )
        row = self._kept(folder, self._row(item, outcome, folder, expected))
        self._weights.add(folder)
        self.account.add(row)
        if gpu and outcome.status == "crashed" and outcome.result and outcome.result[DEVICE_FAILED]:
            why = why_unusable(gpu)
            if why is None:  # only that process failed, as by an illegal address
                display.note(f"{item.name}: {outcome.message}; another process can use the GPU")
                return row
            self.store.append(row)
            display.finish(row, item.prefix)
            raise DeviceError(
                f"{outcome.message} ({self.conditions.device}), and tried again: {why}; look at it "
                "with nvidia-smi and dmesg"
            )
        return row

    def _use_examples(self) -> None:
        """Keep the folder of prepared examples from being removed from the cache.

        Raises:
            InputError: if it is gone.
        """
        if self.data_folder is None or not self.data.task.is_own:
            return
        if not is_prepared(self.data_folder):
            raise InputError(
                f"the examples of {self.data.task.name} are no longer in the cache; the same "
                "command reads them again and goes on"
            )
        mark_used(self.data_folder)

    def _recovered(self, item: Planned, display: Display, outlook: Outlook) -> Row | None:
        """The row of a cell that finished after its parent had died; None without one."""
        folder = self._folder(item)
        row = kept_row(folder)
        key = (*self._key(item), item.attempt)
        same = row is not None and row.row_key == key and row.is_ok
        if row is None or not same or row.code_version != self.conditions.code_version:
            outcome = orphaned_outcome(folder, self._job(item))
            if outcome is None:
                return None
            row = self._kept(folder, self._row(item, outcome, folder, outlook.columns(item.cell)))
        display.note(f"{item.name}: taking over the result that a stopped run left")
        return row

    @staticmethod
    def _kept(folder: Path, row: Row) -> Row:
        """Write a row to its cell's folder, and return it."""
        try:
            keep_row(folder, row)
        except OSError as error:
            raise DiskFullError(f"{folder}: {error.strerror}") from error
        return row

    @cached_property
    def _weights(self) -> KeptWeights:
        return KeptWeights(self.store.path, every=self.keep)

    def _job(self, item: Planned) -> Job:
        return self.models[item.cell.model].job(
            item.cell,
            self.data_folder,
            adapter_config=self.adapter_configs.get(item.cell.adapter or ""),
            conditions_id=self.conditions.conditions_id,
            attempt=item.attempt,
            repeat=item.repeat,
            device=self.conditions.worker_device,
            threads=self.conditions.threads,
            keep=self._weights.keeps(item.cell),
            code_version=self.conditions.code_version,
        )

    def _row(self, item: Planned, outcome: Outcome, folder: Path, expected: Columns) -> Row:
        result = outcome.result or {}
        data = self._data_of(item.cell)
        emulated = ["emulated_bf16"] if item.cell.amp == "bf16" and not self.has_bf16 else []
        columns = {
            "peak_rss_mib": outcome.peak_rss_mib,
            **expected,
            **result.get("columns", {}),
            "grid": self.grid.name,
            "repeat": item.repeat,
            "attempt": item.attempt,
            "wall_s": outcome.wall_s,
            "started_at": outcome.started_at,
            "finished_at": outcome.finished_at,
        }
        return measured_row(
            item.cell,
            self.conditions.columns(),
            columns=columns,
            status=outcome.status,
            flags=[*result.get("flags", []), *emulated],
            message=outcome.message,
            folder=folder,
            dev_examples={part: size.dev for part, size in data.sizes.items()},
            majority_score=data.majority,
        )

    def _data_of(self, cell: Cell) -> Data:
        if self.folds is not None:
            return _fold_of(self.folds, cell.fold)
        return self.searched if cell.learning_rate_source == CANDIDATE else self.data

    @cached_property
    def searched(self) -> Data:
        """The examples of a search for learning rates."""
        return for_search(self.data)

    def _planned_rows(self, planned: list[Planned]) -> list[Row]:
        conditions = self.conditions.columns()
        return [
            row_of(
                {**item.cell.columns(), **conditions, "grid": self.grid.name, "repeat": item.repeat}
            )
            for item in planned
            if not item.elsewhere
        ]

    def _plan(self, planned: list[Planned]) -> list[Row]:
        """The rows of a plan. A cell with a result has the version of the code of that result.

        With `--fresh`, only results of the present version count.
        """
        return [
            replace(row, code_version=last.code_version)
            if (last := self.store.last(*row.key))
            else row
            for row in self._planned_rows(planned)
        ]

    def _write_plan(self, planned: list[Planned]) -> None:
        path = plan_file(self.store.path)
        text = json.dumps(list(map(values_of, self._plan(planned))), indent=1)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text.encode() + b"\n")
        except OSError as error:
            raise DiskFullError(f"{path}: can't be written ({error.strerror})") from error

    def _close(self, planned: list[Planned], ended: str, as_json: bool) -> int:
        """Render the report, print the outcome and how to continue, and return the exit code."""
        # imported late, so that matplotlib does not load while cells run
        from bench.report import recommendation
        from bench.report.render import render

        advice: recommendation.Advice | None = None
        last: dict[tuple[str, int], Row] = {}
        try:
            results = read_results([self.store.path], self.metric)
            for item in planned:
                row = self.store.last(*self._key(item))
                if row is not None and not item.elsewhere:
                    last[item.key] = row
            plan = self._plan(planned)
            values = values_from(results.predictions_of)
            recommended = recommended_from(results.rows, plan, values)
            if recommended is not None:
                advice = recommendation.advice(
                    recommended, results.facts, results.exports, [str(self.store.path)]
                )
            report = str(
                render(
                    results.rows,
                    self.reports,
                    planned=plan,
                    sources=[str(self.store.path)],
                    predictions_of=results.predictions_of,
                    losses_of=results.losses_of,
                    facts=results.facts,
                    exports=results.exports,
                )
            )
        except (DiskFullError, InputError) as error:
            ended = "stopped" if ended == "ok" else ended
            report = f"not written: {error}"
        counts = statuses(planned, last)
        elsewhere = scores_elsewhere(planned)
        times = self.account.times()
        if as_json:
            outcome = {
                "cells": counts,
                "scores_from_other_machines": elsewhere,
                "report": report,
                "time": None if times is None else times.to_json(),
                "recommendation": advice and recommendation.as_json(advice),
            }
            click.echo(json.dumps(outcome))
        else:
            numbers = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
            click.echo(f"{count_cells(planned)}: {numbers}")
            if elsewhere:
                click.echo(scores_sentence(elsewhere))
            click.echo(f"report: {report}")
            if times is not None:
                click.echo(f"time: {times}")
            if advice is not None:
                click.echo("\n".join(recommendation.lines(advice)))
        fell_back = fallen_back(planned, last)
        again = to_run_again(counts, planned, sum(map(was_left_out, last.values())))
        sys.stderr.writelines(self.budget.lines())
        sys.stderr.writelines(how_to_go_on(self.arguments, again, fell_back=fell_back))
        if ended == "interrupted":
            return INTERRUPTED
        return 0 if ended == "ok" and counts["ok"] == counts.total() and not fell_back else 1


@lru_cache(maxsize=1)
def _fold_of(folds: Folds, index: int | None) -> Data:
    """A fold, kept until another is needed: the cells of a fold run one after the other."""
    return folds.fold(index)
