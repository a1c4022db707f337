"""The overall score of the parts of task `multitask`, with its interval. Pure."""

from collections.abc import Mapping
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.plan.columns import CORRELATED
from bench.stats.intervals import Interval, fisher, mean_of, wilson

Scores = Mapping[str, float | None]
"""The score of each part; None where predictions that are all the same have no correlation."""
S = TypeVar("S", float, NDArray[np.float64])


def overall(scores: Scores) -> float | None:
    """The mean over the parts of accuracy and (1 + r) / 2; None if one of them has no score."""
    if not scores:
        return None
    terms = [counted(part, score) for part, score in scores.items() if score is not None]
    return sum(terms) / len(terms) if len(terms) == len(scores) else None


def overall_interval(scores: Mapping[str, float], examples: Mapping[str, int]) -> Interval:
    """The overall score with its 95% interval, from the scores of the parts and their numbers of
    dev examples, which are independent. ValueError without parts."""
    intervals = []
    for part, score in scores.items():
        low, high = score_ends(metric_of_part(part), score, examples[part])
        ends = min(low, score), max(high, score)  # Fisher's exclude a perfect correlation
        intervals.append(Interval(counted(part, score), *(counted(part, end) for end in ends)))
    return mean_of(intervals)


EXACT: Final = ("accuracy", "pearson")
"""Metrics whose interval follows from the score and the number of examples."""


def score_ends(metric: str, score: float, examples: int) -> tuple[float, float]:
    """Both ends of the 95% interval of a score by one of the metrics `EXACT`: Wilson's for an
    accuracy, Fisher's for a correlation."""
    if metric == "accuracy":
        return wilson(round(score * examples), examples)
    return fisher(score, examples)


def metric_of_part(part: str) -> str:
    return "pearson" if part in CORRELATED else "accuracy"


def counted(part: str, score: S) -> S:
    """A part's score, or numbers [N] with that mean, as the overall score counts it: (1 + r) / 2
    for a correlation."""
    return (1 + score) / 2 if part in CORRELATED else score
