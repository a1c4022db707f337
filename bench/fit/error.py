"""How far forecasts of the largest batch were off where it was verified."""

import json
from functools import cache
from importlib.resources import files
from typing import Any, Final

from bench.forecast.fit import WITHIN

_FILE: Final = "verified.json"
"""Entries of `bench.fit --verify --json`, on CPUs."""


@cache
def _verified() -> list[dict[str, Any]]:
    text = files("bench.fit").joinpath(_FILE).read_text("utf-8")
    entries: list[dict[str, Any]] = json.loads(text)
    return entries


def is_close(promised: int, found: int) -> bool:
    """Whether a promised batch is within 10%, or one text, of the largest that fitted."""
    return abs(promised - found) <= max(1.0, WITHIN * found)


def stated_error(*, on_gpu: bool) -> str:
    """A sentence on the verified forecasts so far."""
    if on_gpu:
        return "error of the forecast: unknown, as no batch was verified on a GPU yet"
    if not _verified():
        return "error of the forecast: unknown, as no batch was verified yet"
    pairs = [(entry["promised"], entry["found"]) for entry in _verified()]
    close = sum(is_close(*pair) for pair in pairs)
    small = sum(promised > found for promised, found in pairs)
    worst = max((abs(promised / found - 1) for promised, found in pairs if found), default=0.0)
    return (
        f"error of the forecast: {close} of {len(pairs)} verified batches were within "
        f"{WITHIN:.0%}, or one text, of the largest that fitted, the worst off by {worst:.0%}; "
        f"{small} of the promised batches did not fit"
    )
