"""Averages of several models' predictions, and the choice of an ensemble's members.

Arrays in and out. Letters in shapes: N examples, C outputs of the task's head.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.results.scores import probabilities
from bench.stats.intervals import Floats
from minbert.data.metrics import constant, score

LOGITS, PROBABILITIES = "logits", "probabilities"
AVERAGES: Final = (LOGITS, PROBABILITIES)

Weights = tuple[tuple[int, int], ...]
"""Pairs of a model's index and how often it counts, the highest weight first."""


class Choice(NamedTuple):
    """The members of an ensemble and its score on held-out examples. `additions` are all steps of
    the greedy choice, later ones that were not taken included: the index of the model that was
    added, and the held-out score after it; −∞ where it has none."""

    weights: Weights
    held_score: float | None
    additions: Sequence[tuple[int, float]]


def as_averaged(logits: NDArray[np.generic], metric: str, average: str) -> Floats:
    """A model's logits [N, C] as they enter the average: unchanged, or as probabilities. A single
    logit z [N, 1] for two classes becomes two, −z / 2 and z / 2, so that models with either kind of
    head can be averaged. Predicted numbers [N, 1] are scaled to mean 0 and std 1 instead: models
    that learned a correlation have no common scale. ValueError if they are all the same."""
    values = logits.astype(np.float64)
    if metric == "pearson":
        std = values.std()
        if constant(values) or not std > 0:
            raise ValueError("its predictions are all the same, so they have no correlation")
        return np.asarray((values - values.mean()) / std)
    if average == PROBABILITIES:
        return probabilities(values)
    return np.concatenate([-values / 2, values / 2], axis=1) if values.shape[1] == 1 else values


def averaged(predictions: Sequence[Floats], weights: Weights) -> Floats:
    """The ensemble's predictions [N, C], from those of each model as `as_averaged` returns them."""
    total = sum(weight * predictions[index] for index, weight in weights)
    return np.asarray(total / sum(weight for _, weight in weights))


def choose(
    predictions: Sequence[Floats],
    labels: NDArray[np.generic],
    metric: str,
    *,
    most: int = 25,
    among: Sequence[int] | None = None,
) -> Choice:
    """An ensemble chosen greedily (Caruana et al. 2004): each step adds the model that raises the
    score most; a model can be added more than once.

    The best model alone comes first. Of all sizes up to `most`, each member counted by its weight,
    the smallest with the highest score is taken. Ties go to the model that scores higher alone,
    then to the one that comes first in `among`, indices of the models to choose from. Predictions
    are those of each model on held-out examples, [N, C], as `as_averaged` returns them.
    """
    indices = list(range(len(predictions)) if among is None else among)

    def score_of(values: Floats) -> float:
        value = score(metric, values, labels)
        return -np.inf if value is None else value

    alone = {index: score_of(predictions[index]) for index in indices}
    order = sorted(indices, key=lambda index: -alone[index])
    additions = [(order[0], alone[order[0]])]
    total = predictions[order[0]].copy()
    for size in range(2, most + 1):
        scores = [score_of((total + predictions[index]) / size) for index in order]
        best = int(np.argmax(scores))  # the first of equal ones
        total += predictions[order[best]]
        additions.append((order[best], scores[best]))
    taken = int(np.argmax([held_score for _, held_score in additions]))
    members = Counter(index for index, _ in additions[: taken + 1])
    weights = sorted(members.items(), key=lambda item: (-item[1], indices.index(item[0])))
    return Choice(tuple(weights), additions[taken][1], additions)
