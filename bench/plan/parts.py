"""The parts of task `multitask` in cells and rows: settings by part as text, and scores. Pure."""

import math
from collections.abc import Collection, Mapping
from typing import Final

from bench.plan.cell import Row
from bench.plan.columns import PART_SCORES

SINGLE: Final = ("sst",)
"""Parts of single texts; the others are of pairs."""


def to_text(values: Mapping[str, float]) -> str:
    """A setting by part as a field of runs.csv, such as `quora=5 sst=4 sts=3`."""
    return " ".join(f"{part}={values[part]:.7g}" for part in sorted(values))


def from_text(text: str) -> dict[str, float]:
    """The inverse of `to_text`.

    Raises:
        ValueError: for anything else.
    """
    found = {}
    for term in text.split(" "):
        part, _, value = term.partition("=")
        number = float(value)
        if part not in PART_SCORES or part in found or not (math.isfinite(number) and number >= 0):
            raise ValueError(f"{text[:60]!r} is no setting by part, such as quora=5 sst=4 sts=3")
        found[part] = number
    return found


def most_encoders(parts: Collection[str]) -> int:
    """How many encoders there can be: two where there are both single texts and pairs."""
    return len({part in SINGLE for part in parts})


def scores_of(row: Row) -> dict[str, float]:
    """The dev scores of the parts in a row, of those that have one."""
    found = {part: row[column] for part, column in PART_SCORES.items()}
    return {part: float(score) for part, score in found.items() if isinstance(score, float)}
