"""Prints a plan without running it, as a table or as JSON."""

import json
import math
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

from rich.table import Table

from bench.common.messages import echo
from bench.common.progress import Console
from bench.forecast.forecast import Prediction
from bench.grid.plans import race_round, round_name
from bench.grid.session import Session
from bench.launch.signals import Signals
from bench.plan import gridfile
from bench.plan.budget import minutes, that_fit
from bench.plan.cell import Cell, Columns
from bench.plan.planning import Planned, count_cells, scores_elsewhere, scores_sentence
from bench.report.text import sentences
from bench.stats.best import ROUNDS

_VARIED: Final = tuple(gridfile.Varied.model_fields)
_SIZES: Final = ("batch_size", "max_length")
_MOST_LISTED: Final = 1000
_AXES: Final = ("model", "mode", "adapter", "rank", "layers", "amp", "unfreeze", *_SIZES, *_VARIED,
                "seed", "fold")  # fmt: skip
"""Axes that a search for learning rates does not change."""


def print_plan(
    session: Session,
    planned: Sequence[Planned],
    cells: Sequence[Cell],
    search_round: int | None,
    as_json: bool,
) -> None:
    """Print the plan of a run to stdout, with the expected time and memory of each cell that would
    run, and whether it fits into the budget; the job script that would be submitted, if any. A plan
    for a round of a search is followed by the cells of the grid, which run later. StoppedError if
    the user stops it."""
    with Signals() as signals:
        outlook = session.outlook(planned, signals)
    forecasts, slots = outlook.forecasts, session.executor.workers or 1
    budget_s, script = session.budget.seconds, session.executor.script(session.runs_of(outlook))
    expected = [
        None if forecasts is None or item.action != "run" else forecasts.predict(item.cell)
        for item in planned
    ]
    known = [one for one in expected if one is not None]
    fit = that_fit(budget_s, [None if one is None else one.predicted_s for one in expected], slots)
    (covers, noun), number = round_name(planned, search_round), race_round(planned)
    total: dict[str, Any] = {
        "predicted_s": sum(one.predicted_s for one in known) / slots if known else None,
        "predicted_peak_mib": max((one.predicted_peak_mib for one in known), default=None),
        "basis": forecasts.basis if forecasts is not None and known else None,
        "covers": covers or "the grid",
        "scores_from_other_machines": scores_elsewhere(planned),
    }
    if number is not None and known:  # as the rounds of all settings would take
        total["race_at_most_s"] = (ROUNDS + 1 - number) * total["predicted_s"]
    if limited := math.isfinite(budget_s):
        total |= {"budget_s": budget_s, "cells_that_fit": fit.count(True)}
    after = [] if search_round is None else cells
    if as_json:
        items = [_as_json(item, one) for item, one in zip(planned, expected, strict=True)]
        if limited:
            items = [item | {"fits": fits} for item, fits in zip(items, fit, strict=True)]
        later = [{"name": cell.name, **{name: getattr(cell, name) for name in _AXES}}
                 for cell in after]  # fmt: skip
        document = {"cells": items, "total": total, **({"script": script} if script else {})}
        echo(json.dumps(document | ({"after_search": later} if after else {}), indent=2))
        return
    console = Console()
    if after:
        console.print(f"{covers}:")
    console.print(_table(planned, expected, fit, forecasts is not None))
    to_run = sum(item.action == "run" for item in planned)
    lines = sentences(
        "plan", planned=planned, most=_MOST_LISTED, to_run=to_run, noun=noun, covers=covers,
        total=total, slots=slots, fit=fit, after=after, count_cells=count_cells, minutes=minutes,
        scores_sentence=scores_sentence,
    )  # fmt: skip
    for line in lines:
        console.print(line, soft_wrap=True)
    if after:
        axes = _shown_axes(after)
        table = Table("", *axes, box=None)
        for number, cell in enumerate(after[:_MOST_LISTED], start=1):
            table.add_row(str(number), *(_field(getattr(cell, name)) for name in axes))
        console.print(table)
    if script:
        echo(f"the job script that would be submitted:\n\n{script}", nl=False)


def _table(
    planned: Sequence[Planned],
    expected: Sequence[Prediction | None],
    fit: Sequence[bool | None],
    predicted: bool,
) -> Table:
    axes = _shown_axes([item.cell for item in planned])
    repeat = ["repeat"] if any(item.repeat > 1 for item in planned) else []
    table = Table("", "cell", *axes, *repeat, "rate", "plan", box=None)
    if predicted:
        table.add_column("min", justify="right")
        table.add_column("MiB", justify="right")
    lines = islice(zip(planned, expected, fit, strict=True), _MOST_LISTED)
    for number, (item, one, fits) in enumerate(lines, start=1):
        cell = item.cell
        rate = cell.learning_rate or cell.learning_rate_head
        runs = "left out" if fits is False else "run"
        table.add_row(
            str(number),
            cell.cell_id,
            *(_field(getattr(cell, name)) for name in axes),
            *(str(item.repeat) for _ in repeat),
            "" if rate is None else f"{rate:g}",
            runs if item.action == "run" else item.reason,
            "" if one is None else f"{one.predicted_s / 60:.1f}",
            "" if one is None else f"{one.predicted_peak_mib:,.0f}",
        )
    return table


def _shown_axes(cells: Sequence[Cell]) -> list[str]:
    """The axes that a table shows; some of them only if cells differ in them."""
    rare = {
        "unfreeze": any(cell.unfreeze not in (None, "all") for cell in cells),
        "fold": any(cell.fold is not None for cell in cells),
        **{
            name: len({getattr(cell, name) for cell in cells} - {None}) > 1
            for name in ("model", "adapter", *_SIZES, *_VARIED)
        },
    }
    return [name for name in _AXES if rare.get(name, True)]


def _field(value: str | int | None) -> str:
    return "" if value is None else str(value)


def _as_json(item: Planned, one: Prediction | None) -> Columns:
    return {
        **item.cell.columns(),
        **{name: getattr(item.cell, name) for name in ("scale", "name")},
        **{name: getattr(item, name) for name in ("action", "reason", "repeat", "attempt")},
        "predicted_s": None if one is None else one.predicted_s,
        "predicted_peak_mib": None if one is None else one.predicted_peak_mib,
    }
