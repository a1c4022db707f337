"""Losses of a training by engine minbert and by engine transformers."""

from typing import Any, Final

from bench.analysis.engines import agreements
from bench.common.errors import InputError
from bench.doctor.cells import RUNS, run_cells
from bench.doctor.check import FAILED, Context, Finding, SkipError, judged
from bench.plan.cell import ENGINES
from bench.plan.models import engine_version
from bench.results.losses import kept_losses

SETTINGS: Final[dict[str, Any]] = {
    "epochs": 1,
    "max_steps": 3,
    "max_train": 48,
    "max_dev": 32,
    "batch_size": 16,
    "dropout": 0.0,
}
CELL: Final = {"mode": ["lora"], "rank": [8], "layers": ["all-lin-only"]}
REMEDY: Final = "don't compare the engines here; report this, with the JSON"


def check(context: Context) -> Finding:
    """Train a cell of minilm for three steps in each engine, and compare the losses."""
    try:
        version = engine_version()
    except InputError as error:
        raise SkipError(str(error)) from error
    rows = run_cells(context, SETTINGS, [CELL | {"settings.engine": name} for name in ENGINES])
    if failed := [row for row in rows if not row.is_ok]:
        row = failed[0]
        summary = f"a cell of engine {row.engine} ended {row.status}: {row.message}"
        return Finding(FAILED, summary, REMEDY)
    [agreement] = agreements(rows, kept_losses([context.folder / "cells" / RUNS]))
    summary = (
        f"the losses of {agreement.steps} steps differ by {agreement.difference:.0e} at most "
        f"from those of {version}"
    )
    figures = {"difference": agreement.difference, "limit": agreement.limit}
    return judged(agreement.agrees, summary, REMEDY, figures)
