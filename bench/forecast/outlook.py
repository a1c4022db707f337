"""The forecast of a run: made from its plan, asked before each cell, and taught by each row."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from bench.forecast.client import NoPredictionError, Turn, find_costs
from bench.forecast.costs import Variant
from bench.forecast.forecast import Forecast, memory_column, rows_like, rows_of_model
from bench.launch.signals import Signals
from bench.machine.conditions import Conditions
from bench.plan.cell import Cell, Columns
from bench.plan.columns import row_of
from bench.plan.job import Job
from bench.plan.models import Model
from bench.plan.planning import SKIP, Planned
from bench.plan.rows import Row

Forecaster = Callable[[Sequence[Planned], Signals], Forecast | None]
"""Makes the forecast of a plan, or None if none can be made. It may wait for other grids."""

_SAME: Final[dict[str, Any]] = {
    "seed": 0,
    **dict.fromkeys(("alpha", "learning_rate", "learning_rate_base", "learning_rate_head")),
}
"""Settings that change no costs: the same in all jobs whose costs are counted."""
_SEEDS: Final = 3
"""The number of seeds whose batches are planned: those of other seeds, and of other folds than the
first, hardly differ."""


def forecast_plan(
    planned: Sequence[Planned],
    rows: Iterable[Row],
    model: Model,
    conditions: Conditions,
    data: Path | None,
    turn: Turn = nullcontext,
    gpu: str = "",
    adapter_configs: Mapping[str, str] = MappingProxyType({}),
) -> Forecast | None:
    """The forecast of the cells of a plan; None if none is to run, or, with a note, if it fails.

    Args:
        planned: cells of one grid.
        rows: results, of which those comparable with the plan's are learned from.
        model, conditions, data: those that the cells were planned with.
        turn, gpu: as in `find_costs`.
        adapter_configs: JSON by the name in cells.
    """
    if all(item.action != "run" for item in planned):
        return None
    cells = [item.cell for item in planned]
    by_size = {Variant.of(cell).size: cell for cell in cells}
    likes = [row_of({**cell.columns(), **conditions.columns()}) for cell in by_size.values()]
    newest = [*rows][::-1]
    like = rows_like(newest, likes)
    try:
        forecast = make_forecast(cells, like, model, conditions, data, turn, gpu, adapter_configs)
    except NoPredictionError as error:
        sys.stderr.write(f"note: memory and time are not predicted: {error}\n")
        return None
    if forecast.basis is None:
        forecast.hint(rows_of_model(newest, likes[0]))
    return forecast


def make_forecast(
    cells: Sequence[Cell],
    rows: Sequence[Row],
    model: Model,
    conditions: Conditions,
    data: Path | None,
    turn: Turn = nullcontext,
    gpu: str = "",
    adapter_configs: Mapping[str, str] = MappingProxyType({}),
) -> Forecast:
    """The forecast of some cells of a grid, learned from comparable rows.

    Args:
        turn, gpu: as in `find_costs`.
        adapter_configs: JSON by the name in cells.

    Raises:
        NoPredictionError: if costs can't be counted.
    """
    if all(cell.is_compiled for cell in cells):
        raise NoPredictionError("training is compiled")
    variants = [Variant.of(cell) for cell in cells if not cell.is_compiled]
    variants += [Variant.of_row(row) for row in rows if row.is_ok and not row.cell.is_compiled]
    jobs = jobs_of(variants, cells[0], model, conditions, data, adapter_configs)
    seeds = sorted({cell.seed for cell in cells})[:_SEEDS]
    totals = find_costs(jobs, seeds, turn, gpu)
    like = rows or [row_of({**cells[0].columns(), **conditions.columns()})]
    forecast = Forecast(totals, conditions.device, conditions.threads, memory_column(like))
    forecast.learn(rows)
    return forecast


def jobs_of(
    variants: Iterable[Variant],
    cell: Cell,
    model: Model,
    conditions: Conditions,
    data: Path | None,
    adapter_configs: Mapping[str, str] = MappingProxyType({}),
) -> dict[Variant, Job]:
    """The jobs that are counted for some variants.

    Args:
        cell: any cell of their grid.
    """
    cell = replace(cell, **_SAME, fold=None if cell.folds is None else 0)
    return {
        variant: Job(
            cell=replace(cell, **variant._asdict()),
            conditions_id=conditions.conditions_id,
            attempt=1,
            device=conditions.worker_device,
            threads=conditions.threads,
            checkpoint=None if model.checkpoint is None else str(model.checkpoint.resolve()),
            geometry=model.geometry,
            tokenizer=str(model.tokenizer.resolve()),
            data=None if data is None else str(data.resolve()),
            keep=False,
            code_version="",
            adapter_config=adapter_configs.get(variant.adapter or ""),
        )
        for variant in variants
    }


class Outlook:
    """The cells of a run, and its forecast, if there is one.

    Cells that are skipped because the search found no learning rate get a row, but no forecast.
    """

    def __init__(self, forecast: Forecast | None, to_run: Sequence[Planned]) -> None:
        self.to_run = to_run
        self.forecast = forecast
        self._left = Counter(Variant.of(item.cell) for item in to_run if item.action != SKIP)

    def begin(self, cell: Cell) -> tuple[float | None, float | None]:
        """Mark a cell as begun; returns the expected seconds of it and of all later cells."""
        variant = Variant.of(cell)
        if variant in self._left:
            self._left[variant] -= 1
        cell_s = self.time_s(cell)
        if self.forecast is None or cell_s is None:
            return None, None
        return cell_s, self.forecast.left_s(self._left)

    def time_s(self, cell: Cell) -> float | None:
        """The expected seconds of a cell; None where nothing measured here predicts them."""
        variant = Variant.of(cell)
        if self.forecast is None or self.forecast.basis is None or variant not in self._left:
            return None
        prediction = self.forecast.predict(variant)
        return None if prediction is None else prediction.wall_s

    def columns(self, cell: Cell) -> Columns:
        """Columns of the forecast of a cell."""
        prediction = None if self.forecast is None else self.forecast.predict(Variant.of(cell))
        if prediction is None:
            return {}
        return {
            "flops_per_token": prediction.flops_per_token,
            "predicted_s": prediction.wall_s,
            "predicted_peak_mib": prediction.peak_mib,
        }

    def learn(self, row: Row) -> None:
        """Learn from a cell's row."""
        if self.forecast is not None:
            self.forecast.learn([row])


def outlook_on(
    planned: Sequence[Planned], forecaster: Forecaster | None, signals: Signals
) -> Outlook:
    """The outlook on a plan; without a forecast, and without waiting, where nothing is to run.

    Raises:
        StoppedError: if the user stops it.
    """
    to_run = [item for item in planned if item.action in ("run", SKIP)]
    if forecaster is None or all(item.action == SKIP for item in to_run):
        return Outlook(None, to_run)
    with signals.raising():
        return Outlook(forecaster(planned, signals), to_run)
