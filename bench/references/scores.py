"""The scores of predictions by every metric of a problem, with 95% intervals over dev examples."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.plan.metrics import metrics_for
from bench.results.predictions import outcome_of
from bench.results.scores import numbers, score_of

Floats = NDArray[np.float64]
Score = tuple[float, float | None, float | None] | None
"""A value with both ends of its interval; None: not defined."""

_LEAST: Final = 1e-12


def scores(problem: str, predictions: Floats, labels: NDArray[Any]) -> dict[str, Score]:
    """The scores by name of metric.

    Args:
        predictions: [N, C], as of `bench.references.linear`.
        labels: [N], or [N, C] of 0 and 1 for several labels.
    """
    if problem == "single_label":
        logits, unit = np.log(np.maximum(predictions, _LEAST)), None
    else:
        logits, unit = predictions, (0.0, 1.0)
    outcome = outcome_of(logits, labels, unit)
    found: dict[str, Score] = {}
    for metric in metrics_for(problem):
        try:
            score = score_of(metric, [numbers(metric, outcome)])
            found[metric] = (score.value, score.low, score.high)
        except ValueError:
            found[metric] = None
    return found
