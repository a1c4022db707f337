"""Dev scores and losses, from logits as plain arrays."""

import numpy as np
from numpy.typing import NDArray

from minbert.data.words import CLASSES, ENTITIES, entity_f1, predicted_tags, word_accuracy

Floats = NDArray[np.float32] | NDArray[np.float64]


def accuracy(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Share of examples whose largest logit [N, C] is at the label [N]; of two classes with one
    logit [N, 1], the second is predicted where that is above 0."""
    predicted = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(axis=1)
    return float(np.mean(predicted == labels))


def micro_f1(logits: Floats, labels: NDArray[np.generic]) -> float:
    """F1 over all examples and classes together, of logits [N, C] and labels 0 and 1 [N, C]; a
    label is predicted where its logit is above 0. 0 without any, as in scikit-learn."""
    predicted, given = logits > 0, labels.astype(bool)
    count = int(predicted.sum() + given.sum())
    return 2 * int((predicted & given).sum()) / count if count else 0.0


def constant(values: NDArray[np.generic]) -> bool:
    """Whether numbers are all the same, or there are none, so that nothing correlates with them;
    compared with each other and not with their mean, which is rounded."""
    return not values.size or bool(np.max(values) == np.min(values))


def pearson(predicted: Floats, labels: Floats) -> float | None:
    """Pearson's correlation of two arrays [N]; None where one of them is constant."""
    if constant(predicted) or constant(labels):
        return None
    x = predicted.astype(np.float64) - predicted.mean(dtype=np.float64)
    y = labels.astype(np.float64) - labels.mean(dtype=np.float64)
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norm if norm > 0 else None


def score(metric: str, logits: Floats, labels: NDArray[np.generic]) -> float | None:
    """A dev score: `accuracy` or `micro_f1` of logits [N, C], `pearson` of predictions [N, 1], or
    `entity_f1` or `word_accuracy` of logits of words [M, C] and their tags. ValueError for another
    metric."""
    if metric == "accuracy":
        return accuracy(logits, labels.astype(np.int64))
    if metric == "micro_f1":
        return micro_f1(logits, labels)
    if metric == "pearson":
        return pearson(logits[:, 0], labels.astype(np.float64))
    if metric in (of_words := {"entity_f1": entity_f1, "word_accuracy": word_accuracy}):
        tags = labels.astype(ENTITIES if metric == "entity_f1" else CLASSES)
        return of_words[metric](tags, predicted_tags(logits, tags))
    raise ValueError(f"no metric is called {metric!r}")
