"""The parts of task `multitask` in cells and rows: settings by part as text, and scores. Pure."""

import math
from collections.abc import Collection, Mapping
from typing import Final

from bench.plan.columns import PART_SCORES
from bench.plan.rows import Row

SINGLE: Final = ("sst",)  # parts with single texts; the others have pairs of texts


def to_text(values: Mapping[str, float]) -> str:
    """A setting by part as a field of runs.csv, such as `quora=5 sst=4 sts=3`."""
    return " ".join(f"{part}={values[part]:.7g}" for part in sorted(values))


def from_text(text: str) -> dict[str, float]:
    """The inverse of `to_text`; ValueError for anything else."""
    values: dict[str, float] = {}
    for term in text.split(" "):
        part, _, value = term.partition("=")
        number = float(value)
        if part not in PART_SCORES or part in values or not (math.isfinite(number) and number >= 0):
            raise ValueError(f"{text[:60]!r} is no setting by part, such as quora=5 sst=4 sts=3")
        values[part] = number
    return values


def most_encoders(parts: Collection[str]) -> int:
    """The largest number of encoders: two where there are both single texts and pairs."""
    return len({part in SINGLE for part in parts})


def scores_of(row: Row) -> dict[str, float]:
    """The dev scores in a row, by part; parts without one are left out."""
    scores = {part: row[column] for part, column in PART_SCORES.items()}
    return {part: score for part, score in scores.items() if isinstance(score, float)}
