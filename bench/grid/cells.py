"""The cells of a run: from a planned cell to what runs for it, its folder and its row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

from bench.executors.executor import Executor
from bench.forecast.outlook import Outlook
from bench.launch.cell_run import CellRun
from bench.machine.conditions import Found
from bench.plan.budget import Budget
from bench.plan.cell import CANDIDATE, Cell
from bench.plan.columns import row_of
from bench.plan.gridfile import Grid
from bench.plan.job import Job
from bench.plan.models import Model
from bench.plan.planning import Planned, groups_of
from bench.plan.rows import Row
from bench.results.kept import KeptWeights
from bench.results.overhead import Account
from bench.results.store import Store, cell_folder
from minbert.data.tasks import Data, Folds, for_search


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The cells of a run, and everything that they share.

    `models` are by name. `data` are the examples of cells without a fold; those of the others are
    in `folds`. `keep` is whether every cell keeps its trained weights. `executor` runs the cells.
    `adapter_configs` has the JSON of each adapter_config.json by its name in cells. `moved` are the
    cells that have run on another kind of device than they were planned for, as planned for that,
    by the key of the original.
    """

    grid: Grid
    executor: Executor
    models: Mapping[str, Model]
    data: Data
    folds: Folds | None = None
    data_folder: Path | None
    store: Store
    keep: bool
    timeout_s: float | None
    budget: Budget = field(default_factory=Budget)
    account: Account = field(default_factory=Account)
    adapter_configs: Mapping[str, str] = field(default_factory=dict)
    moved: dict[tuple[str, int], Planned] = field(default_factory=dict)

    @property
    def kinds(self) -> Mapping[str, Found]:
        """The conditions of cells, by their id."""
        return self.executor.kinds

    def folder(self, row: Row) -> Path:
        """The folder of the cell of a row."""
        return cell_folder(self.store.path, row.name, *row.key, row.attempt)

    @cached_property
    def weights(self) -> KeptWeights:
        return KeptWeights(self.store.path, every=self.keep)

    def _job(self, item: Planned) -> Job:
        conditions = self.kinds[item.conditions_id].conditions
        return self.models[item.cell.model].job(
            item.cell,
            self.data_folder,
            adapter_config=self.adapter_configs.get(item.cell.adapter or ""),
            conditions_id=item.conditions_id,
            attempt=item.attempt,
            repeat=item.repeat,
            device=conditions.worker_device,
            threads=conditions.threads,
            keep=self.weights.keeps(item.cell),
            code_version=conditions.code_version,
        )

    def cell_run(self, item: Planned, outlook: Outlook) -> CellRun:
        """The attempt at a planned cell.

        Args:
            outlook: on its plan.
        """
        data = self.data_of(item.cell)
        return CellRun(
            job=self._job(item),
            grid=self.grid.name,
            dev_examples={part: size.dev for part, size in data.sizes.items()},
            majority_score=data.majority,
            forecast=outlook.columns(item.cell),
            expected_s=outlook.time_s(item.cell),
            timeout_s=self.timeout_s,
            prefix=item.prefix,
            amp_is_on=item.amp_is_on,
        )

    def runs_of(self, outlook: Outlook) -> list[list[CellRun]]:
        """The attempts at the cells that are to run, in groups that run one after the
        other on one device."""
        to_run = [item for item in outlook.to_run if item.action == "run"]
        return [[self.cell_run(item, outlook) for item in group] for group in groups_of(to_run)]

    def data_of(self, cell: Cell) -> Data:
        """The examples of a cell."""
        if self.folds is not None:
            return _fold_of(self.folds, cell.fold)
        return self.searched if cell.learning_rate_source == CANDIDATE else self.data

    @cached_property
    def searched(self) -> Data:
        """The examples of a search for learning rates."""
        return for_search(self.data)

    def planned_rows(self, planned: list[Planned]) -> list[Row]:
        """The rows, still without results, of planned cells."""
        label = self.grid.name
        columns = {name: kind.conditions.columns() for name, kind in self.kinds.items()}
        return [
            row_of(
                {
                    **item.cell.columns(),
                    **columns[item.conditions_id],
                    "grid": label,
                    "repeat": item.repeat,
                }
            )
            for item in planned
            if not item.elsewhere
        ]


@lru_cache(maxsize=1)
def _fold_of(folds: Folds, index: int | None) -> Data:
    """A fold, kept until another is needed: the cells of a fold run one after the other."""
    return folds.fold(index)
