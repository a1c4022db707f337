"""Forecast of memory against the peaks of three settings."""

from typing import Final

from bench.doctor.cells import run_cells
from bench.doctor.check import FAILED, Context, Finding, judged
from bench.plan.rows import Row

SETTINGS: Final = {
    "model": "bert-mini", "init": "random", "epochs": 1, "max_steps": 3, "max_train": 192,
    "max_dev": 32, "batch_size": 64,
}  # fmt: skip
CELLS: Final = (
    {"mode": ["full"]},
    {"mode": ["lora"], "rank": [8], "layers": ["all-lin"]},
    {"mode": ["dora"], "rank": [8], "layers": ["attn-only"], "amp": ["on"]},
)
TOLERANCE: Final = 0.25
"""Of the peak above what the imports hold. The prior was within 5% for these three settings where
it was measured. Allocators and libraries differ by machine: on a CPU by some tens of MiB of 200 to
400. A forecast that is off by a third is noticed."""
WORKSPACE_MIB: Final = 64.0
"""What cuBLAS holds on a GPU, up to 32 MiB for each thread of a step's forward and backward pass,
and forecasts leave out."""


def check(context: Context) -> Finding:
    """Run the cells in one grid, which learns from each, and compare each with its forecast."""
    larger = {} if context.device == "cpu" else {"model": "minilm"}  # than cuBLAS's workspace
    rows = run_cells(context, SETTINGS | larger, CELLS)
    figures = {_label(row): _figures(row) for row in rows}
    if failed := [row for row in rows if not row.is_ok]:
        row = failed[0]
        summary = f"{_label(row)} ended {row.status}: {row.message}"
        return Finding(FAILED, summary, "mend that first", figures)
    if missing := [name for name, values in figures.items() if values["error"] is None]:
        summary = f"{missing[0]} has no forecast, or no peak to compare it with"
        remedy = "report this, with the JSON; cells run all the same"
        return Finding(FAILED, summary, remedy, figures)
    errors = {name: float(values["error"] or 0.0) for name, values in figures.items()}
    worst = max(errors, key=lambda name: abs(errors[name]))
    summary = (
        f"forecasts of {len(errors)} peaks are off by {errors[worst]:+.0%} at most ({worst}: "
        f"{figures[worst]['predicted_mib']:,.0f} for {figures[worst]['measured_mib']:,.0f} MiB)"
    )
    remedy = "trust no forecast before some cells have run here, from which it learns; report this"
    return judged(abs(errors[worst]) <= TOLERANCE, summary, remedy, figures)


def _label(row: Row) -> str:
    return f"{row.mode} {row.amp}"


def _figures(row: Row) -> dict[str, float | None]:
    """The forecast of a row's peak, the peak, and the error as a share of the latter above the
    imports."""
    if row.device == "cpu":
        measured, parts = row.peak_rss_mib, (row.peak_anon_mib, row.imports_anon_mib)
        above = None if None in parts else float(parts[0] or 0.0) - float(parts[1] or 0.0)
    else:
        measured = above = row.peak_cuda_allocated_mib
    predicted, error = row.predicted_peak_mib, None
    if predicted is not None and measured is not None and above:
        error = (predicted - measured) / above
        if row.device != "cpu" and error < 0:
            error = min(0.0, error + WORKSPACE_MIB / above)
    return {"predicted_mib": predicted, "measured_mib": measured, "error": error}
