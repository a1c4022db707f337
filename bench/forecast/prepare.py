"""From a plan to a forecast of its cells, or a note on why there is none."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.forecast.client import NoPredictionError, find_costs
from bench.forecast.costs import Variant
from bench.forecast.forecast import Forecast, memory_column, rows_like, rows_of_model
from bench.forecast.turn import Turn
from bench.forecast.workload import Workload
from bench.machine.conditions import Conditions
from bench.plan.cell import Cell, Row
from bench.plan.columns import new_row
from bench.plan.models import Model
from bench.plan.planning import Planned

_COMPILED: Final = "it is not done for training that is compiled"


def forecast_plan(
    planned: Sequence[Planned],
    rows: Iterable[Row],
    model: Model,
    conditions: Conditions,
    data: Path | None,
    turn: Turn = nullcontext,
    gpu: str = "",
) -> Forecast | None:
    """A forecast of the cells that are to run; None without any, or if it can't be made.

    Args:
        planned: of one grid.
        rows: of which those that may be compared with the plan's, batch sizes aside, are learned
            from.
        model, conditions, data: as the cells were planned with.
        turn, gpu: as those of `find_costs`.
    """
    cells = [item.cell for item in planned if item.action == "run"]
    if not cells:
        return None
    of_each_size = {item.cell.batch_size: item.cell for item in planned}.values()
    likes = [new_row(**cell.columns(), **conditions.columns()) for cell in of_each_size]
    newest = [*rows][::-1]
    try:
        found = make_forecast(cells, rows_like(newest, likes), model, conditions, data, turn, gpu)
    except NoPredictionError as error:
        sys.stderr.write(f"note: memory and time are not predicted: {error}\n")
        return None
    if found.basis is None:
        found.hint(rows_of_model(newest, likes[0]))
    return found


def make_forecast(
    cells: Sequence[Cell],
    rows: Sequence[Row],
    model: Model,
    conditions: Conditions,
    data: Path | None,
    turn: Turn = nullcontext,
    gpu: str = "",
) -> Forecast:
    """A forecast of some cells of a grid, learned from rows that may be compared with them.

    Args:
        turn, gpu: as those of `find_costs`.

    Raises:
        NoPredictionError: if costs can't be counted.
    """
    if any(cell.is_compiled for cell in cells):
        raise NoPredictionError(_COMPILED)
    workload = Workload.of(cells, model, conditions, data)
    wanted = [Variant.of(cell) for cell in cells]
    wanted += [Variant.of_row(row) for row in rows if row["status"] == "ok"]
    with _progress() as on_progress:
        costs = find_costs(workload, list(dict.fromkeys(wanted)), on_progress, turn, gpu)
    like = rows or [new_row(**cells[0].columns(), **conditions.columns())]
    found = Forecast(costs, conditions.device, conditions.threads, memory_column(like))
    found.learn(rows)
    return found


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Gives what takes the settings counted, and of how many. Shows nothing until it is called."""
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
