"""The cells of a run: what runs for a planned cell, and what becomes of its row."""

from collections.abc import Hashable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from bench.common.errors import InputError
from bench.examples.tokens import MOST_FILES, share
from bench.executors.executor import Executor
from bench.forecast.client import lock_on
from bench.forecast.outlook import Counting, Forecasts, Outlook, forecast_plan, outlook_on
from bench.grid.inputs import Inputs
from bench.grid.plans import Kinds
from bench.launch.again import orphaned_outcome
from bench.launch.attempt import Attempt, keep, outcome_row
from bench.launch.display import Display
from bench.launch.signals import Signals
from bench.plan.budget import Budget, needs_no_row
from bench.plan.cell import Cell
from bench.plan.columns import row_of
from bench.plan.job import Job
from bench.plan.planning import RERUN, SKIP, Planned, groups_of
from bench.plan.pruning import dominating, why_skipped
from bench.plan.rows import Row
from bench.plan.shards import Division, divide
from bench.results.kept import KeptWeights
from bench.results.overhead import Account
from bench.results.row import kept_row
from bench.results.store import Store, cell_folder
from bench.results.tracking import Tracking
from minbert.data.tasks.prepared import is_prepared, mark_used


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The cells of a run, and everything that they share. `moved` has the cells that ran on another
    kind of device than they were planned for, as planned for that, by the original's key."""

    inputs: Inputs
    executor: Executor
    store: Store
    keep: bool  # whether every cell keeps its trained weights
    timeout_s: float | None
    predicts: bool = False  # whether costs are, and scores of cells here get reference points
    rerun: str | None = None  # a status or flag whose cells run again
    fresh: bool = False  # whether only results of this version of the code count
    budget: Budget = field(default_factory=Budget)
    account: Account = field(default_factory=Account)
    moved: dict[tuple[str, int], Planned] = field(default_factory=dict)
    tracking: Tracking | None = None

    @cached_property
    def weights(self) -> KeptWeights:
        return KeptWeights(self.store.path, every=self.keep)

    @cached_property
    def _by_kind(self) -> Kinds:
        return Kinds(self.inputs.grid, lambda: self.executor.kinds.values())

    def plan(self, cells: Sequence[Cell], **options: Any) -> list[Planned]:
        """What is left to do, by `bench.plan.planning.plan`; its options replace the own."""
        repeats = self.inputs.grid.settings.repeats
        own = {"repeats": repeats, "rerun": self.rerun, "fresh": self.fresh}
        return self._by_kind.plan(cells, self.store.rows, **(own | options))

    def scored(self, cell: Cell) -> Row | None:
        return self._by_kind.scored(self.store, cell)

    def outlook(self, planned: Sequence[Planned], signals: Signals) -> Outlook:
        """The forecast of a plan. StoppedError if the user stops it."""
        forecaster = partial(self._forecast, self.store.rows) if self.predicts else None
        return outlook_on(planned, forecaster, signals)

    def divide(self, cells: Sequence[Cell], count: int, signals: Signals) -> Division:
        """The cells of each of some shards, which don't depend on results. InputError if they can't
        be divided; StoppedError if the user stops it."""
        planned = self._by_kind.plan(cells, [])
        forecasts = outlook_on(planned, partial(self._forecast, []), signals).forecasts
        usual = [None if forecasts is None else forecasts.usual_s(cell) for cell in cells]
        for item, seconds in zip(planned, usual, strict=True):
            if seconds is None and item.action == "run" and not item.cell.is_compiled:
                raise InputError(
                    f"--shard: the costs of {item.name} can't be counted here (see the note), so "
                    "another machine may divide the plan otherwise; mend that and give the command "
                    "again, or leave such cells out with --select"
                )
        known = [seconds for seconds in usual if seconds is not None] or [1.0]
        mean = sum(known) / len(known)
        milliseconds = [round(1000 * (mean if s is None else s)) for s in usual]
        return divide(cells, milliseconds, count, [item.amp_is_on for item in planned])

    def _forecast(
        self, rows: Sequence[Row], planned: Sequence[Planned], signals: Signals
    ) -> Forecasts | None:
        target, is_here = next(iter(self.executor.kinds.values())), self.executor.workers
        counting = Counting(
            target.conditions,
            self.inputs.data_folder,
            lock_on(target.device_name, signals) if is_here else nullcontext,
            target.gpu if is_here else "",
            self.inputs.adapter_configs,
        )
        return forecast_plan(planned, rows, self.inputs.models, counting)

    def _job(self, item: Planned) -> Job:
        return self.inputs.models[item.cell.model].job(
            item.cell,
            self.inputs.data_folder,
            adapter_config=self.inputs.adapter_configs.get(item.cell.adapter or ""),
            attempt=item.attempt,
            repeat=item.repeat,
            keep=self.weights.keeps(item.cell),
            **self.executor.kinds[item.conditions_id].conditions.job_fields(),
        )

    def attempt(self, item: Planned, outlook: Outlook) -> Attempt:
        data = self.inputs.data_of(item.cell)
        return Attempt(
            job=self._job(item),
            grid=self.inputs.grid.name,
            dev_examples={part: size.dev for part, size in data.sizes.items()},
            majority_score=data.majority,
            forecast=outlook.columns(item.cell),
            expected_s=outlook.time_s(item.cell),
            timeout_s=self.timeout_s,
            prefix=item.prefix,
            amp_is_on=item.amp_is_on,
        )

    def runs_of(self, outlook: Outlook) -> list[list[Attempt]]:
        """The attempts that are to run, in groups that run one after the other on one device."""
        to_run = [item for item in outlook.to_run if item.action == "run"]
        return [[self.attempt(item, outlook) for item in group] for group in groups_of(to_run)]

    def planned_rows(self, planned: Iterable[Planned]) -> list[Row]:
        """The rows, still without results, of planned cells."""
        columns = {name: kind.conditions.columns() for name, kind in self.executor.kinds.items()}
        grid = self.inputs.grid.name
        return [
            row_of({**item.cell.columns(), **columns[item.conditions_id],
                    "grid": grid, "repeat": item.repeat})
            for item in planned
            if not item.elsewhere
        ]  # fmt: skip


@dataclass
class PlanDispatcher:
    """The cells of a plan as they run: what an executor asks before each, and reports after it."""

    cells: Cells
    outlook: Outlook
    display: Display
    _tokenised: set[Hashable] = field(default_factory=set)

    def begin(self, item: Planned) -> bool:
        budget = self.cells.budget
        cell_s, rest_s = self.outlook.begin(item.cell)
        self.display.start(item.name, cell_s, rest_s, budget.left_s())
        return budget.fits(self.outlook.time_s(item.cell))

    def waited(self, seconds: float) -> None:
        self.cells.account.waited(seconds)

    def prepare(self, item: Planned) -> Attempt | None:
        """The next attempt at a cell; None, with a row where one is needed, if it does not run."""
        item, row = self._next_attempt(item)
        row = row or self._skipped(item)
        if row is not None:
            self._finish(item, row)
            return None
        if note := self.cells.weights.note(item.cell):
            self.display.note(note)
        self._use_examples()
        self._share_tokens(item.cell)
        return self.cells.attempt(item, self.outlook)

    def tokenise(self, items: Sequence[Planned]) -> None:
        self.display.stage("tokenising the examples")
        for item in items:
            if item.action != SKIP and len(self._tokenised) < MOST_FILES:
                self._share_tokens(item.cell)

    def ended(self, *rows: tuple[Planned, Row]) -> None:
        cells, store = self.cells, self.cells.store
        for _, row in rows:
            cells.weights.add(cell_folder(store.path, row.name, *row.key, row.attempt))
            cells.account.add(row)
        store.append(*(row for _, row in rows))
        for item, row in rows:
            self._finish(item, row)
        if cells.tracking and cells.executor.workers <= 1:  # else others are being measured
            for _, row in rows:
                cells.tracking.send_row(row)

    def _next_attempt(self, item: Planned) -> tuple[Planned, Row | None]:
        """A planned cell with the number of its next attempt, and its row if another grid has run
        it since it was planned."""
        store = self.cells.store
        keys = [(item.cell.cell_id, kind, item.repeat) for kind in self.cells.executor.kinds]
        attempt = max(store.next_attempt(*key) for key in keys)
        if attempt > item.attempt:
            rows = filter(None, (store.last(*key) for key in keys))
            row = max(rows, key=lambda row: (row.is_ok, row.attempt), default=None)
            if row is not None:
                self.display.note(f"{item.name}: another grid has run it meanwhile")
                return item, row
        return replace(item, attempt=max(attempt, item.attempt)), None

    def _skipped(self, item: Planned) -> Row | None:
        """The row of a cell that does not run, written if it is new; None for one that does."""
        cells = self.cells
        why = self._why_skipped(item)
        row = self._recovered(item) if why is None else None
        if row is None:
            why = why or cells.budget.leave_out(item.key, self.outlook.time_s(item.cell))
            if why is None:
                return None
            [planned] = cells.planned_rows([item])
            row = replace(planned, attempt=item.attempt, status="skipped", message=why)
            if needs_no_row(cells.store.last(*item.row_key), why):
                return row
        cells.store.append(row)
        return row

    def _why_skipped(self, item: Planned) -> str | None:
        """Why a cell can't run, or would run out of memory and was not asked for; else None."""
        if item.action == SKIP:
            return item.reason
        if item.reason.startswith(RERUN):
            return None
        smaller = self.cells.store.out_of_memory(item.cell, item.conditions_id)
        cause = dominating(item.cell, item.conditions_id, smaller)
        return None if cause is None else why_skipped(item.cell, cause)

    def _recovered(self, item: Planned) -> Row | None:
        """The row of a cell that finished after its parent had died; None without one."""
        cells = self.cells
        key = (*item.row_key, item.attempt)
        folder = cell_folder(cells.store.path, item.cell.name, *key)
        row = kept_row(folder)
        if row is None and not folder.exists():
            return None
        run = cells.attempt(item, self.outlook)
        same = row is not None and row.row_key == key and row.is_ok
        if row is None or not same or row.code_version != run.job.code_version:
            outcome = orphaned_outcome(folder, run.job)
            if outcome is None:
                return None
            row = outcome_row(run, cells.executor.kinds[item.conditions_id], outcome, folder)
            keep(folder, row)
        self.display.note(f"{item.name}: taking over the result that a stopped run left")
        return row

    def _use_examples(self) -> None:
        """Keep the folder of prepared examples from being removed from the cache."""
        folder, task = self.cells.inputs.data_folder, self.cells.inputs.data.task
        if folder is None or not task.is_own:
            return
        if not is_prepared(folder):
            raise InputError(
                f"the examples of {task.name} are no longer in the cache; the same command reads "
                "them again and goes on"
            )
        mark_used(folder)

    def _share_tokens(self, cell: Cell) -> None:
        """Tokenise a cell's examples, once in a round, before the first worker starts: otherwise
        that one alone would spend time on it."""
        inputs = self.cells.inputs
        examples = (cell.model, cell.engine, cell.data_digest, cell.max_length, cell.fold)
        if examples not in self._tokenised:
            self._tokenised.add(examples)
            tokenizer = inputs.models[cell.model].tokenizer
            share(inputs.data_of(cell), cell, tokenizer, inputs.data_folder)

    def _finish(self, item: Planned, row: Row) -> None:
        cells = self.cells
        if row.key != item.row_key and row.conditions_id in cells.executor.kinds:
            cells.moved[item.key] = replace(item, cell=row.cell, conditions_id=row.conditions_id)
        self.outlook.learn(row)
        self.display.finish(row, item.prefix)
