"""The host memory that a process started now could use. Imports no torch."""

from bench.doctor.check import BY_NAME, Context, Finding, judged
from bench.machine.memory import available_mib


def check(context: Context) -> Finding:  # noqa: ARG001
    """Compare the memory that is available now with the largest peak."""
    available, limit = available_mib()
    figures = {"available_mib": available, **BY_NAME["memory-limit"].limits}
    failures = {"little": available < figures["needed_mib"]}
    return judged("memory-limit", figures, failures, limit=limit)
