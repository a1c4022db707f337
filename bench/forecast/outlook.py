"""The forecast of a run: made from its plan, asked before each cell, and taught by each row."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from bench.analysis.groups import Group
from bench.common.grouping import grouped
from bench.common.progress import note_to_stderr
from bench.forecast.client import Lock, NoPredictionError, find_costs
from bench.forecast.costs import Variant
from bench.forecast.forecast import Forecast, Prediction, rows_like, rows_of_model
from bench.launch.signals import Signals
from bench.machine.conditions import Conditions
from bench.plan.cell import ABOUT, Cell, Columns, Value, named
from bench.plan.columns import row_of
from bench.plan.job import Job
from bench.plan.models import Model
from bench.plan.planning import SKIP, Planned
from bench.plan.rows import Row

NO_BASIS: Final = "no basis yet: nothing like it has run on this machine"
_KIND: Final = tuple(
    name
    for name in named(lambda about: about.compared in ("group", "never"))
    if not ABOUT[name].counted and ABOUT[name].changes != ("score",)
)
"""Settings that decide costs, besides those of a variant."""
Kind = tuple[Value, ...]
Like = tuple[Kind, Variant]  # what all cells with the same costs have in common


def _kind(cell: Cell | Row) -> Kind:
    return tuple(attrgetter(*_KIND)(cell))


class Forecasts:
    """The forecasts of the cells of a plan: one for each model and other settings that variants do
    not distinguish."""

    def __init__(self, by_kind: Mapping[Kind, Forecast]) -> None:
        self.by_kind = by_kind

    def predict(self, cell: Cell) -> Prediction | None:
        """Expected costs of a cell; None where they could not be counted."""
        forecast = self.by_kind.get(_kind(cell))
        return None if forecast is None else forecast.predict(Variant.of(cell))

    def usual_s(self, cell: Cell) -> float | None:
        """As `Forecast.usual_s`."""
        forecast = self.by_kind.get(_kind(cell))
        return None if forecast is None else forecast.usual_s(Variant.of(cell))

    def time_s(self, cell: Cell) -> float | None:
        """The expected seconds of a cell; None where nothing measured here predicts them."""
        forecast, prediction = self.by_kind.get(_kind(cell)), self.predict(cell)
        if forecast is None or forecast.basis is None or prediction is None:
            return None
        return prediction.predicted_s

    @property
    def basis(self) -> str:
        """Phrases on what times are predicted from."""
        each = dict.fromkeys(forecast.basis or NO_BASIS for forecast in self.by_kind.values())
        return "; ".join(each)

    def learn(self, row: Row) -> None:
        if (forecast := self.by_kind.get(_kind(row))) is not None:
            forecast.learn([row])


Forecaster = Callable[[Sequence[Planned], Signals], Forecasts | None]
"""Makes the forecasts of a plan, or None if none can be made. It may wait for other grids."""

_SAME: Final[dict[str, Any]] = {
    "seed": 0,
    **dict.fromkeys(("alpha", "learning_rate", "learning_rate_base", "learning_rate_head")),
}
"""Settings that change no costs: the same in all jobs whose costs are counted."""
_SEEDS: Final = 3
"""The number of seeds whose batches are planned: those of other seeds, and of other folds than the
first, hardly differ."""


@dataclass(frozen=True)
class Counting:
    """Where and with which files costs are counted: conditions and data as the cells were planned
    with, lock and GPU as in `find_costs`, and JSON of adapter configs by the name in cells;
    variants of other configs are left out."""

    conditions: Conditions
    data: Path | None = None
    lock: Lock = nullcontext
    gpu: str = ""
    adapter_configs: Mapping[str, str] = field(default_factory=dict)

    def job(self, model: Model, cell: Cell) -> Job:
        """The job of a cell, as it is counted."""
        return model.job(
            cell,
            self.data,
            adapter_config=self.adapter_configs.get(cell.adapter or ""),
            conditions_id=self.conditions.conditions_id,
            device=self.conditions.worker_device,
            threads=self.conditions.threads,
        )


def forecast_plan(
    planned: Sequence[Planned], rows: Iterable[Row], models: Mapping[str, Model], counting: Counting
) -> Forecasts | None:
    """The forecasts of the cells of a grid's plan, learned from comparable rows; None if none is to
    run, or, with notes, if all fail."""
    if all(item.action != "run" for item in planned):
        return None
    several = len({item.cell.model for item in planned}) > 1
    newest = [*rows][::-1]
    forecasts, notes = {}, dict[str, None]()
    for kind, cells in grouped((item.cell for item in planned), _kind).items():
        by_size = {Variant.of(cell).size: cell for cell in cells}
        likes = [_planned_row(cell, counting) for cell in by_size.values()]
        like = rows_like(newest, likes)
        model = models[cells[0].model]
        try:
            forecast = make_forecast(cells, like, model, counting)
        except NoPredictionError as error:
            whose = f" of {model.name}" if several else ""
            notes[f"memory and time{whose} are not predicted: {error}"] = None
            continue
        if forecast.basis is None:
            forecast.hint(rows_of_model(newest, likes[0]))
        forecasts[kind] = forecast
    note_to_stderr(*notes)
    return Forecasts(forecasts) if forecasts else None


def make_forecast(
    cells: Sequence[Cell], rows: Sequence[Row], model: Model, counting: Counting
) -> Forecast:
    """The forecast of some cells of a grid, of one kind, learned from comparable rows;
    NoPredictionError if costs can't be counted."""
    if any(cell.is_compiled for cell in cells):
        raise NoPredictionError("training is compiled")
    variants = [Variant.of(cell) for cell in cells]
    variants += [Variant.of(row) for row in rows if row.is_ok]
    jobs = jobs_of(variants, cells[0], model, counting)
    seeds = sorted({cell.seed for cell in cells})[:_SEEDS]
    totals = find_costs(jobs, seeds, counting.lock, counting.gpu)
    like = Group(tuple(rows or [_planned_row(cells[0], counting)]), ())
    here = counting.conditions
    forecast = Forecast(totals, here.device, here.threads, like.memory_column)
    forecast.learn(rows)
    return forecast


def _planned_row(cell: Cell, counting: Counting) -> Row:
    return row_of({**cell.columns(), **counting.conditions.columns()})


def jobs_of(
    variants: Iterable[Variant], cell: Cell, model: Model, counting: Counting
) -> dict[Variant, Job]:
    """The jobs that are counted for some variants, from any cell that agrees with them in all else
    that decides costs."""
    cell = replace(cell, **_SAME, fold=0 if cell.fold is not None else None)
    return {
        variant: counting.job(model, replace(cell, **variant._asdict()))
        for variant in variants
        if variant.adapter is None or variant.adapter in counting.adapter_configs
    }


class Outlook:
    """The cells of a run, and their forecasts, if there are any. Cells that are skipped because the
    search found no learning rate get a row, but no forecast."""

    def __init__(self, forecasts: Forecasts | None, to_run: Sequence[Planned]) -> None:
        self.to_run = to_run
        self.forecasts = forecasts
        self._left = Counter(_like(item.cell) for item in to_run if item.action != SKIP)
        self._cells = {_like(item.cell): item.cell for item in to_run}
        self._times_s: dict[Like, float | None] = {}

    def begin(self, cell: Cell) -> tuple[float | None, float | None]:
        """Mark a cell as begun; returns the expected seconds of it and of all later cells."""
        if (like := _like(cell)) in self._left:
            self._left[like] = max(0, self._left[like] - 1)  # some begin twice
        cell_s = self._time_s(like)
        left = [(n, self._time_s(like)) for like, n in self._left.items() if n]
        known = [n * seconds for n, seconds in left if seconds is not None]
        return cell_s, sum(known) if cell_s is not None and len(known) == len(left) else None

    def time_s(self, cell: Cell) -> float | None:
        return self._time_s(_like(cell))

    def _time_s(self, like: Like) -> float | None:
        if self.forecasts is None or like not in self._left:
            return None
        if like not in self._times_s:
            self._times_s[like] = self.forecasts.time_s(self._cells[like])
        return self._times_s[like]

    def columns(self, cell: Cell) -> Columns:
        prediction = None if self.forecasts is None else self.forecasts.predict(cell)
        return {} if prediction is None else {**vars(prediction)}

    def learn(self, row: Row) -> None:
        if self.forecasts is not None:
            self.forecasts.learn(row)
            self._times_s.clear()


def _like(cell: Cell) -> Like:
    return _kind(cell), Variant.of(cell)


def outlook_on(
    planned: Sequence[Planned], forecaster: Forecaster | None, signals: Signals
) -> Outlook:
    """The outlook on a plan; without a forecast, and without waiting, where nothing is to run.
    StoppedError if the user stops it."""
    to_run = [item for item in planned if item.action in ("run", SKIP)]
    if forecaster is None or all(item.action == SKIP for item in to_run):
        return Outlook(None, to_run)
    with signals.raising():
        return Outlook(forecaster(planned, signals), to_run)
