"""A round of a run: one plan, whose cells an executor runs."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

from bench.common.errors import InputError
from bench.examples.tokens import MOST_FILES, share
from bench.forecast.outlook import Outlook
from bench.grid.cells import Cells
from bench.grid.display import Display
from bench.grid.resume import orphaned_outcome
from bench.launch.cell_run import CellRun, keep, outcome_row
from bench.plan.budget import needs_no_row
from bench.plan.cell import Cell
from bench.plan.planning import RERUN, SKIP, Planned
from bench.plan.pruning import dominating, why_skipped
from bench.plan.rows import Row
from bench.results.row import kept_row
from bench.results.store import cell_folder
from minbert.data.tasks.prepared import is_prepared, mark_used


@dataclass(frozen=True)
class Round:
    """The cells of a plan as they run: what an executor asks before each, and reports after it.

    It is the `bench.executors.executor.Conductor` of a run.
    """

    cells: Cells
    outlook: Outlook
    display: Display
    _tokenised: set[Hashable] = field(default_factory=set)

    def begin(self, item: Planned) -> bool:
        """Show that a cell is next; false if it exceeds the budget."""
        budget = self.cells.budget
        cell_s, rest_s = self.outlook.begin(item.cell)
        self.display.start(item.name, cell_s, rest_s, budget.left_s())
        return budget.fits(self.outlook.time_s(item.cell))

    def waited(self, seconds: float) -> None:
        """Count a wait for other grids."""
        self.cells.account.waited(seconds)

    def prepare(self, item: Planned) -> CellRun | None:
        """The next attempt at a cell; None, with a row where one is needed, if it does not run."""
        cells = self.cells
        keys = [(item.cell.cell_id, kind, item.repeat) for kind in cells.kinds]
        attempt = max(cells.store.next_attempt(*key) for key in keys)
        if attempt > item.attempt:
            rows = filter(None, (cells.store.last(*key) for key in keys))
            row = max(rows, key=lambda row: (row.is_ok, row.attempt), default=None)
            if row is not None:
                self.display.note(f"{item.name}: another grid has run it meanwhile")
                self._finish(item, row)
                return None
        item = replace(item, attempt=max(attempt, item.attempt))
        skipped = self._skipped(item, cells.store.last(*item.row_key))
        if skipped is not None:
            self._finish(item, skipped)
            return None
        if note := cells.weights.note(item.cell):
            self.display.note(note)
        self._use_examples()
        self._share_tokens(item.cell)
        return self._run(item)

    def tokenise(self, items: Sequence[Planned]) -> None:
        """Tokenise the examples of cells, as many as the cache holds."""
        self.display.stage("tokenising the examples")
        for item in items:
            if item.action != SKIP and len(self._tokenised) < MOST_FILES:
                self._share_tokens(item.cell)

    def _share_tokens(self, cell: Cell) -> None:
        """Tokenise a cell's examples, once in a round, before the first worker starts: otherwise
        that one alone would spend time on it."""
        cells = self.cells
        examples = (cell.model, cell.engine, cell.data_digest, cell.max_length, cell.fold)
        if examples not in self._tokenised:
            self._tokenised.add(examples)
            tokenizer = cells.models[cell.model].tokenizer
            share(cells.data_of(cell), cell, tokenizer, cells.data_folder)

    def _run(self, item: Planned) -> CellRun:
        return self.cells.cell_run(item, self.outlook)

    def _skipped(self, item: Planned, last: Row | None) -> Row | None:
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
            if needs_no_row(last, why):
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
        if not folder.exists():
            return None
        run, row = self._run(item), kept_row(folder)
        same = row is not None and row.row_key == key and row.is_ok
        if row is None or not same or row.code_version != run.job.code_version:
            outcome = orphaned_outcome(folder, run.job)
            if outcome is None:
                return None
            row = outcome_row(run, cells.kinds[item.conditions_id], outcome, folder)
            keep(folder, row)
        self.display.note(f"{item.name}: taking over the result that a stopped run left")
        return row

    def _use_examples(self) -> None:
        """Keep the folder of prepared examples from being removed from the cache.

        Raises:
            InputError: if it is gone.
        """
        folder, task = self.cells.data_folder, self.cells.data.task
        if folder is None or not task.is_own:
            return
        if not is_prepared(folder):
            raise InputError(
                f"the examples of {task.name} are no longer in the cache; the same command reads "
                "them again and goes on"
            )
        mark_used(folder)

    def ended(self, *rows: tuple[Planned, Row]) -> None:
        """Take over the rows of cells that have run."""
        cells = self.cells
        for _, row in rows:
            cells.weights.add(cells.folder(row))
            cells.account.add(row)
        # another command may have collected some
        cells.store.append(*(row for _, row in rows if not cells.store.has(row)))
        for item, row in rows:
            self._finish(item, row)

    def _finish(self, item: Planned, row: Row) -> None:
        cells = self.cells
        if row.key != item.row_key and row.conditions_id in cells.kinds:
            on_kind = replace(item, cell=row.cell, conditions_id=row.conditions_id)
            cells.moved[item.key] = on_kind
        self.outlook.learn(row)
        self.display.finish(row, item.prefix)
