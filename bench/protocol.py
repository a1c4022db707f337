"""What a runner and its workers agree on: environment, files, and what a result holds. Pure."""

import json
from typing import Any, Final

from bench.schema import BY_NAME, FLAGS, STATUSES, format_value, parse_value

PARENT_PID: Final = "BENCH_PARENT_PID"
"""Environment: the process that the worker must not outlive; stdin is a pipe that it holds."""
PROGRESS_FD: Final = "BENCH_PROGRESS_FD"
"""Environment: the descriptor that takes progress, one JSON object a line."""
LAUNCHED_AT: Final = "BENCH_LAUNCHED_AT"
"""Environment: the monotonic clock, which all processes share, at launch."""

RESULT: Final = "result.json"
ROW: Final = "row.json"
STEPS: Final = "steps.csv"
PANEL: Final = "panel.csv"
EPOCHS: Final = "epochs.csv"
MACHINE: Final = "machine.json"
PREDICTIONS: Final = "predictions.safetensors"
STDOUT: Final = "stdout.txt"
STDERR: Final = "stderr.txt"


def parse_result(text: str) -> dict[str, Any]:
    """The content of a result.json: `status`, and `flags`, `message` and `columns` if it has any.

    Raises:
        ValueError: if it is none that a row of runs.csv can be made from.
    """
    try:
        result = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(result, dict):
        raise ValueError("it is no JSON object")
    if not isinstance(result.get("status"), str) or result["status"] not in STATUSES:
        raise ValueError("it has no status that is known")
    if not isinstance(result.setdefault("message", ""), str):
        raise ValueError("its message is no text")
    flags = result.setdefault("flags", [])
    if not isinstance(flags, list) or not set(map(str, flags)) <= FLAGS.keys():
        raise ValueError("it has flags that are not known")
    if not isinstance(result.setdefault("columns", {}), dict):
        raise ValueError("its columns are no JSON object")
    for name in result["columns"].keys() & BY_NAME.keys():
        value = result["columns"][name]
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            raise ValueError(f"its {name} is no text or number")
        parse_value(name, format_value(value))
    return result
