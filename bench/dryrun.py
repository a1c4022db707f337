"""What a plan would do, without doing it: as a table or as JSON."""

import json
from collections.abc import Sequence
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from bench.plan import Planned
from bench.predict.costs import Variant
from bench.predict.forecast import Forecast, Prediction
from bench.schema import Row

NO_BASIS: Final = "no basis yet: nothing like it has run on this machine"


def print_plan(planned: Sequence[Planned], forecast: Forecast | None, as_json: bool) -> None:
    """Print the plan to stdout, with what each cell that would run is expected to take."""
    told = [_prediction(item, forecast) for item in planned]
    total = _total(told, forecast)
    if as_json:
        cells = [_as_json(item, one) for item, one in zip(planned, told, strict=True)]
        click.echo(json.dumps({"cells": cells, "total": total}, indent=2))
        return
    table = Table("", "cell", "mode", "rank", "layers", "amp", "seed", "plan", box=None)
    if forecast is not None:
        table.add_column("min", justify="right")
        table.add_column("MiB", justify="right")
    for number, (item, one) in enumerate(zip(planned, told, strict=True), start=1):
        cell = item.cell
        table.add_row(
            str(number),
            cell.cell_id,
            cell.mode,
            "" if cell.rank is None else str(cell.rank),
            cell.layers or "",
            cell.amp,
            str(cell.seed),
            "run" if item.action == "run" else item.reason,
            "" if one is None else f"{one.wall_s / 60:.1f}",
            "" if one is None else f"{one.peak_mib:,.0f}",
        )
    console = Console()
    console.print(table)
    to_run = sum(item.action == "run" for item in planned)
    console.print(f"{len(planned)} cells: {to_run} to run, {len(planned) - to_run} not")
    if forecast is not None:
        console.print(
            f"predicted: {total['predicted_s'] / 60:,.1f} min in all, at most "
            f"{total['predicted_peak_mib']:,.0f} MiB ({total['basis']})",
            soft_wrap=True,
        )


def _prediction(item: Planned, forecast: Forecast | None) -> Prediction | None:
    if forecast is None or item.action != "run":
        return None
    return forecast.predict(Variant.of(item.cell))


def _total(told: Sequence[Prediction | None], forecast: Forecast | None) -> dict[str, Any]:
    known = [one for one in told if one is not None]
    if forecast is None or not known:
        return {"predicted_s": None, "predicted_peak_mib": None, "basis": None}
    return {
        "predicted_s": sum(one.wall_s for one in known),
        "predicted_peak_mib": max(one.peak_mib for one in known),
        "basis": forecast.basis or NO_BASIS,
    }


def _as_json(item: Planned, one: Prediction | None) -> Row:
    return {
        **item.cell.columns(),
        "name": item.cell.name,
        "action": item.action,
        "reason": item.reason,
        "attempt": item.attempt,
        "predicted_s": None if one is None else one.wall_s,
        "predicted_peak_mib": None if one is None else one.peak_mib,
    }
