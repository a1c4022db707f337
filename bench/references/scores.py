"""The scores of predictions by every metric of a problem, with 95% intervals over dev examples."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.results.predictions import outcome_of
from bench.results.scores import Score, every_score

Floats = NDArray[np.float64]
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
    return every_score(problem, outcome_of(logits, labels, unit))
