"""Enough host memory for the full grid on minilm."""

from typing import Final

from bench.doctor.check import Context, Finding, judged
from bench.doctor.memory import available_mib

NEEDED_MIB: Final = 2048
"""The largest peak of a cell of the full grid on minilm, 1,922 MiB in runs.csv, and a reserve."""


def check(context: Context) -> Finding:  # noqa: ARG001
    """Compare the memory that is available now with the largest peak."""
    available, limit = available_mib()
    figures = {"available_mib": available, "needed_mib": NEEDED_MIB}
    summary = f"{available:,.0f} MiB are {limit}; the full grid on minilm needs {NEEDED_MIB:,}"
    remedy = "end other programs or raise the limit; or take a smaller batch_size or model"
    return judged(available >= NEEDED_MIB, summary, remedy, figures)
