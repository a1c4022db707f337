"""The score that the parts of the task `multitask` have in common, with its interval. Pure."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.plan.columns import CORRELATED
from bench.stats.intervals import Interval, fisher, mean_of, wilson

Scores = Mapping[str, float | None]
"""Of each part that is there, None where it has none: predictions that are all the same."""
S = TypeVar("S", float, NDArray[np.float64])


def overall(scores: Scores) -> float | None:
    """The mean over the parts of accuracy and (1 + r) / 2; None if one of them has no score."""
    if not scores:
        return None
    found = [counted(part, score) for part, score in scores.items() if score is not None]
    return sum(found) / len(found) if len(found) == len(scores) else None


def overall_interval(scores: Mapping[str, float], examples: Mapping[str, int]) -> Interval:
    """The overall score with its 95% interval, from those of the parts.

    Wilson's for an accuracy and Fisher's for a correlation; the parts' examples are independent.

    Args:
        scores: of each part.
        examples: dev examples of each part.

    Raises:
        ValueError: without parts.
    """
    return mean_of([_interval(part, score, examples[part]) for part, score in scores.items()])


def _interval(part: str, score: float, examples: int) -> Interval:
    by_r = part in CORRELATED
    low, high = fisher(score, examples) if by_r else wilson(round(score * examples), examples)
    ends = min(low, score), max(high, score)  # Fisher's are a hair inside of a perfect correlation
    return Interval(counted(part, score), *(counted(part, end) for end in ends))


def counted(part: str, score: S) -> S:
    """What a part's score counts, or numbers [N] whose mean it is: of a correlation (1 + r) / 2."""
    return (1 + score) / 2 if part in CORRELATED else score
