"""The environment, files and results that a runner and its workers agree on. Pure."""

import json
import math
from typing import Any, Final

from bench.plan.cell import Value
from bench.plan.columns import BY_NAME, CORRELATED, LARGEST, PART_SCORES, format_value, parse_value
from bench.plan.metrics import metric_of
from bench.plan.rows import FLAGS, STATUSES

PARENT_PID: Final = "BENCH_PARENT_PID"
"""Environment variable: the process that the worker must not outlive."""
PROGRESS_FD: Final = "BENCH_PROGRESS_FD"
"""Environment variable: the file descriptor for progress, one JSON object a line."""
LAUNCHED_AT: Final = "BENCH_LAUNCHED_AT"
"""Environment variable: the time of launch by the monotonic clock, which all processes share."""

RESULT: Final = "result.json"
DEVICE_FAILED: Final = "device_failed"
"""Key of a result: true where the device itself failed, and not the cell."""
SAVE_S: Final = "save_s"
"""Key of a result: the seconds that saving weights took, which are no part of wall_s."""
ROW: Final = "row.json"
STEPS: Final = "steps.csv"
PANEL: Final = "panel.csv"
EPOCHS: Final = "epochs.csv"
MACHINE: Final = "machine.json"
PHASES: Final = "phases.csv"
PREDICTIONS: Final = "predictions.safetensors"
WEIGHTS: Final = "weights.safetensors"
"""The tensors that trained, by their parameters' names."""
LONGEST_RESULT: Final = 2**24
"""Most bytes of a result that are read."""
STDOUT: Final = "stdout.txt"
STDERR: Final = "stderr.txt"


def parse_result(text: str) -> dict[str, Any]:
    """The content of a result.json. A number that is not finite counts as missing, and makes a
    result with status ok invalid. ValueError if no row of runs.csv can be made from it."""
    try:
        result = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(result, dict):
        raise ValueError("it is no JSON object")
    if not isinstance(result.get("status"), str) or result["status"] not in STATUSES:
        raise ValueError("it has no known status")
    if not isinstance(result.setdefault("message", ""), str):
        raise ValueError("its message is no text")
    flags = result.setdefault("flags", [])
    if not isinstance(flags, list) or not all(isinstance(f, str) and f in FLAGS for f in flags):
        raise ValueError("it has unknown flags")
    if not isinstance(result.setdefault(DEVICE_FAILED, False), bool):
        raise ValueError(f"its {DEVICE_FAILED} is not true or false")
    saved = result.setdefault(SAVE_S, 0.0)
    if isinstance(saved, bool) or not isinstance(saved, int | float) or not 0 <= saved < LARGEST:
        raise ValueError(f"its {SAVE_S} is no duration")
    columns = result.setdefault("columns", {})
    if not isinstance(columns, dict):
        raise ValueError("its columns are no JSON object")
    for name in sorted(columns.keys() & BY_NAME.keys()):
        columns[name], problem = _column(name, columns[name])
        if problem and result["status"] == "ok":
            result["status"], result["message"] = "invalid", problem
    lowest = {"dev_score": metric_of(columns.get("dev_metric")).lowest}
    lowest |= {name: -1.0 if part in CORRELATED else 0.0 for part, name in PART_SCORES.items()}
    for name, low in lowest.items():
        score = columns.get(name)
        if score is not None and not low <= score <= 1:
            raise ValueError(f"its {name} is {score:g}, which is out of range")
    return result


def _column(name: str, value: Any) -> tuple[Value, str]:
    """A column's value in its kind, and the reason if a number counts as missing."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise ValueError(f"its {name} is no text or number")
    if isinstance(value, float) and not math.isfinite(value):
        return None, f"its {name} is {value}"
    try:
        parsed = parse_value(name, format_value(value))
    except ValueError as error:
        raise ValueError(f"its {name}: {error}") from None
    is_exact = parsed is not None and type(value) is BY_NAME[name].kind
    return value if is_exact else parsed, ""
