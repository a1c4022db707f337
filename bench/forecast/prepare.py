"""Makes the forecast of a plan, or prints a note on why there is none."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.forecast.client import NoPredictionError, Turn, find_costs
from bench.forecast.costs import Variant
from bench.forecast.forecast import Forecast, memory_column, rows_like, rows_of_model
from bench.forecast.workload import Workload
from bench.machine.conditions import Conditions
from bench.plan.cell import Cell
from bench.plan.columns import row_of
from bench.plan.models import Model
from bench.plan.planning import Planned
from bench.plan.rows import Row


def forecast_plan(
    planned: Sequence[Planned],
    rows: Iterable[Row],
    model: Model,
    conditions: Conditions,
    data: Path | None,
    turn: Turn = nullcontext,
    gpu: str = "",
) -> Forecast | None:
    """The forecast of the cells of a plan that are to run; None without any, or if it fails.

    Args:
        planned: cells of one grid.
        rows: results, of which those comparable with the plan's are learned from.
        model, conditions, data: those that the cells were planned with.
        turn, gpu: as in `find_costs`.
    """
    cells = [item.cell for item in planned if item.action == "run"]
    if not cells:
        return None
    by_size = {item.cell.batch_size: item.cell for item in planned}
    likes = [row_of({**cell.columns(), **conditions.columns()}) for cell in by_size.values()]
    newest = [*rows][::-1]
    try:
        forecast = make_forecast(
            cells, rows_like(newest, likes), model, conditions, data, turn, gpu
        )
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
) -> Forecast:
    """The forecast of some cells of a grid, learned from comparable rows.

    Args:
        turn, gpu: as in `find_costs`.

    Raises:
        NoPredictionError: if costs can't be counted.
    """
    if any(cell.is_compiled for cell in cells):
        raise NoPredictionError("training is compiled")
    workload = Workload.of(cells, model, conditions, data)
    variants = [Variant.of(cell) for cell in cells]
    variants += [Variant.of_row(row) for row in rows if row.is_ok]
    with _progress() as on_progress:
        costs = find_costs(workload, list(dict.fromkeys(variants)), on_progress, turn, gpu)
    like = rows or [row_of({**cells[0].columns(), **conditions.columns()})]
    forecast = Forecast(costs, conditions.device, conditions.threads, memory_column(like))
    forecast.learn(rows)
    return forecast


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A progress bar as a callback for `find_costs`; it shows from the first call on."""
    console = Console(stderr=True)
    columns = (
        TextColumn("predicting memory and time"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:

        def show(done: int, total: int) -> None:
            if not bar.task_ids:
                bar.add_task("", total=total)
                if not console.is_terminal:
                    sys.stderr.write(f"predicting memory and time of {total} settings\n")
            bar.update(bar.task_ids[0], completed=done, total=total)

        yield show
