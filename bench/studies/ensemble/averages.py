"""Ensembles: averages of several models' predictions, and who is in one. Arrays in and out.

Letters in shapes: M models, N examples, C outputs of the task's head.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from minbert.data.metrics import constant, score

LOGITS, PROBABILITIES = "logits", "probabilities"
AVERAGES: Final = (LOGITS, PROBABILITIES)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Addition:
    """One stage of a greedy choice: the number of the model that it adds, and what all that are in
    by then score together on held-out examples; −∞ where that is no score."""

    index: int
    held_score: float


@dataclass(frozen=True)
class Choice:
    """Who is in an ensemble.

    Attributes:
        weights: a model's number and how many times it counts, most often first.
        held_score: what they score together on held-out examples.
        additions: the stages of the greedy choice, one for each addition, those after the stage
            that was taken too; none where nobody chose.
    """

    weights: tuple[tuple[int, int], ...]
    held_score: float
    additions: tuple[Addition, ...] = ()

    @property
    def size(self) -> int:
        """How many models are averaged, each as often as it counts."""
        return sum(weight for _, weight in self.weights)


def as_averaged(logits: NDArray[np.generic], metric: str, average: str) -> Floats:
    """What is averaged of a model's logits [N, C]: those, or the probabilities of its classes.

    One logit z [N, 1] that tells two classes stands for two, −z / 2 and z / 2, so that models with
    either kind of head go together.

    Predictions of a number [N, 1] are brought to a mean of 0 and a std of 1 instead: models
    that learned a correlation have no common scale.

    Raises:
        ValueError: for another average, or predictions of a number that are all the same.
    """
    if average not in AVERAGES:
        raise ValueError(f"no average is of {average!r}; there are {', '.join(AVERAGES)}")
    values = logits.astype(np.float64)
    if metric == "pearson":
        std = values.std()
        if constant(values) or not std > 0:
            raise ValueError("its predictions are all the same, so they have no correlation")
        return np.asarray((values - values.mean()) / std)
    if values.shape[1] == 1:
        values = np.concatenate([-values / 2, values / 2], axis=1)
    if average == LOGITS:
        return values
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def averaged(predictions: Sequence[Floats], choice: Choice) -> Floats:
    """The ensemble's predictions [N, C], of each model's as `as_averaged` gives them."""
    total = sum(weight * predictions[index] for index, weight in choice.weights)
    return np.asarray(total / choice.size)


def choose(
    predictions: Sequence[Floats],
    labels: NDArray[np.generic],
    metric: str,
    *,
    most: int = 25,
) -> Choice:
    """An ensemble chosen greedily (Caruana et al. 2004): always the model whose addition scores
    highest, one that is in it perhaps again.

    It begins with the best model alone, goes on to `most` additions and ends, of all its stages,
    with the smallest of the highest score. Of equal additions the one whose model is better alone
    is taken, and of models that are equally good alone the first.

    Args:
        predictions: of each model on held-out examples, [N, C], as `as_averaged` gives them.
        labels: [N], as `minbert.data.metrics.score` takes them.

    Raises:
        ValueError: without a model.
    """
    if not predictions:
        raise ValueError("an ensemble needs a model")

    def scored(values: Floats) -> float:
        found = score(metric, values, labels)
        return -np.inf if found is None else found

    alone = [scored(values) for values in predictions]
    order = sorted(range(len(predictions)), key=lambda index: -alone[index])
    additions = [Addition(order[0], alone[order[0]])]
    total = predictions[order[0]].copy()
    for size in range(2, most + 1):
        tried = [scored((total + predictions[index]) / size) for index in order]
        best = int(np.argmax(tried))  # the first of equals
        total += predictions[order[best]]
        additions.append(Addition(order[best], tried[best]))
    stage = max(range(len(additions)), key=lambda n: (additions[n].held_score, -n))
    members = Counter(addition.index for addition in additions[: stage + 1])
    weights = sorted(members.items(), key=lambda item: (-item[1], item[0]))
    return Choice(tuple(weights), additions[stage].held_score, tuple(additions))
