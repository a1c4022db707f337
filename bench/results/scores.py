"""Scores of predictions by the metrics of `bench.plan.metrics`, and a number for each example whose
mean is the score.

The numbers are the score plus each example's influence on it (`bench.stats.metrics`), so that all
comparisons can be paired over examples, whatever the metric. For an accuracy they are 1 or 0, right
or wrong.
"""

import math
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import RefusedError
from bench.common.progress import note_to_stderr
from bench.plan.metrics import METRICS, WORDS, Metric, metric_of, metrics_for
from bench.results.outcomes import Array, Outcome, Values
from bench.results.overall import score_ends
from bench.stats.intervals import Interval, around_correlation, spread
from minbert.data.words import FEWEST_ENTITIES, FEWEST_HITS, entity_counts

Floats = NDArray[np.float64]
_DRAWS: Final = 400
"""Of a bootstrap: its ends are uncertain by a tenth of the interval."""


def numbers(metric: str, outcome: Outcome) -> Values:
    """A number for each example [N], or for each document where these are known, with the score as
    their mean. ValueError if the metric is not that of the outcome's problem, can't be computed
    from what is stored, or is not defined, as a correlation of constants is not; RefusedError if it
    is a plugin's that fails.

    The number of a document is the score plus the sum of its examples' influences, times the mean
    number of examples in a document over that of all: intervals and comparisons resample documents.
    """
    values = _of_examples(metric, outcome)
    if outcome.documents is None or not np.ptp(outcome.documents):
        return values
    score = values.mean()
    sums = np.bincount(outcome.documents, weights=values - score)
    return np.asarray(score + sums * len(sums) / len(values))


def defined_score(metric: str, outcome: Outcome) -> float | None:
    """The score of predictions; None where it is not defined, as a correlation of constants."""
    with suppress(ValueError):
        score = float(numbers(metric, outcome).mean())
        return score if math.isfinite(score) else None
    return None


def _of_examples(metric: str, outcome: Outcome) -> Values:
    labels, predicted = outcome.labels, outcome.predicted
    if metric == "accuracy" and outcome.has_classes:
        right: Values = (predicted if labels is None else predicted == labels).astype(np.float64)
        return right
    if labels is None:
        raise ValueError("only right and wrong are stored")
    known = metric_of(metric)
    if outcome.problem not in known.problems:
        raise ValueError(f"{metric} is not defined for these predictions")
    if known.in_unit and not outcome.in_unit:
        raise ValueError("the predictions are not in the unit of the labels")
    if known.needs_logits:
        return _ranked(known, outcome.logits, labels)
    if outcome.has_numbers:
        labels, predicted = labels.astype(np.float64), predicted.astype(np.float64)
    return _computed(known, labels, predicted)


def _computed(metric: Metric, labels: Array, predicted: Array) -> Values:
    """Each example's influence plus the score [N]."""
    try:
        value, influence = metric.functions()
        influences = np.asarray(influence(labels, predicted))
        score = float(value(labels, predicted))
        if influences.shape != labels.shape[:1] or influences.dtype.kind != "f":
            raise TypeError(f"{metric.influence} gives no number for each example")
    except ValueError:
        raise
    except Exception as error:
        plugin = METRICS.plugin(metric.name)
        if plugin is None:
            raise
        raise RefusedError(f"{plugin}: its metric {metric.name!r} fails: {error}") from error
    return influences + score


def _ranked(metric: Metric, logits: Array | None, labels: Array) -> Values:
    """The mean over the classes that occur, each against the rest; of two, that of the second."""
    if logits is None:
        raise ValueError("the logits are not stored")
    from scipy.special import log_softmax

    values = logits.astype(np.float64)
    if values.shape[1] <= 2:
        chosen = {1: values[:, -1] - (values[:, 0] if values.shape[1] == 2 else 0)}
    else:
        logarithms = log_softmax(values, axis=1)
        chosen = {int(label): logarithms[:, label] for label in np.unique(labels)}
    of_classes = [_computed(metric, labels == label, scores) for label, scores in chosen.items()]
    return np.asarray(np.mean(of_classes, axis=0))


def probabilities(logits: Array) -> Floats:
    """The probability of each class [N, C], or with one logit of both classes, [N, 2]."""
    values = logits.astype(np.float64)
    if values.shape[1] == 1:
        values = np.concatenate([-values / 2, values / 2], axis=1)
    from scipy.special import softmax

    return np.asarray(softmax(values, axis=1))


Score = tuple[float, float | None, float | None] | None
"""A value with both ends of its 95% interval; None: not defined."""


def every_score(problem: str, outcome: Outcome) -> dict[str, Score]:
    scores: dict[str, Score] = dict.fromkeys(metrics_for(problem))
    for metric in scores:
        try:
            # scikit-learn warns of a single class
            with suppress(ValueError), warnings.catch_warnings(action="ignore"):
                score = interval_of(metric, [outcome])
                ends = (score.value, score.low, score.high)
                if all(end is None or math.isfinite(end) for end in ends):
                    scores[metric] = ends
        except RefusedError as error:
            note_to_stderr(str(error))
    return scores


def has_interval(outcome: Outcome) -> bool:
    """Whether intervals from influences hold: of entities, where enough are true and predicted."""
    if outcome.problem != WORDS or outcome.labels is None:
        return True
    tags = outcome.labels.astype(np.int16), outcome.predicted.astype(np.int16)
    hits, _, true = entity_counts(*tags).sum(axis=0)
    return bool(true >= FEWEST_ENTITIES and hits >= FEWEST_HITS)


def interval_of(metric: str, outcomes: Sequence[Outcome]) -> Interval:
    """A score with its interval, as of `score_of`, from the predictions of one or several seeds;
    of few entities by `_few_entities`. ValueError as of `numbers` and `score_of`."""
    values = [numbers(metric, outcome) for outcome in outcomes]
    if all(map(has_interval, outcomes)):
        return score_of(metric, values)
    return Interval(float(np.mean(values)), *_few_entities(metric, outcomes))


def _few_entities(metric: str, outcomes: Sequence[Outcome]) -> tuple[float | None, float | None]:
    """Both ends by drawing texts, or documents, again (percentile bootstrap). Without an entity
    that is right: up to the score with three (Hanley and Lippman-Hand 1983)."""
    tags = [(each.labels.astype(np.int16), each.predicted.astype(np.int16))
            for each in outcomes if each.labels is not None]  # fmt: skip
    hits, guessed, true = sum(entity_counts(*pair).sum(axis=0) for pair in tags)
    if not hits and metric != "word_accuracy":
        wholes = {"entity_precision": guessed, "entity_recall": true}
        return 0.0, min(1.0, 3 / max(1, wholes.get(metric, (guessed + true) / 2)))
    value, _ = metric_of(metric).functions()
    documents = outcomes[0].documents
    of_each = np.arange(len(tags[0][0])) if documents is None else documents
    members = [np.flatnonzero(of_each == each) for each in np.unique(of_each)]
    rng, number = np.random.default_rng(0), len(members)
    scores = []
    for _ in range(_DRAWS):
        drawn = np.concatenate([members[each] for each in rng.integers(number, size=number)])
        with suppress(ValueError):  # a draw without an entity
            scores.append(np.mean([value(*(each[drawn] for each in pair)) for pair in tags]))
    low, high = np.quantile(scores, (0.025, 0.975))
    return float(low), float(high)


def score_of(metric: str, values: Sequence[Values]) -> Interval:
    """A score with its 95% interval, from the numbers of one or several seeds: for one seed over
    examples, Wilson's of an accuracy, else by Student's t; for several seeds over seeds and
    examples. Of a correlation it is on the scale of Fisher's z. ValueError if seeds have other
    numbers of examples."""
    known = metric_of(metric)
    score = float(np.mean(values))
    if metric == "accuracy" and len(values) == 1:
        return Interval(score, *score_ends(metric, score, len(values[0])))
    over = spread(np.stack(values))
    if known.is_correlation:
        return Interval(score, *around_correlation(over))
    low, high = over.interval().ends() or (score, score)
    return within_bounds(metric, Interval(score, low, high))


def within_bounds(metric: str, interval: Interval) -> Interval:
    """An interval of a score cut to the values that its metric can have."""
    known, ends = metric_of(metric), interval.ends()
    if ends is None:
        return interval
    return Interval(
        interval.value, max(ends[0], known.lowest), min(ends[1], 1.0) if known.bounded else ends[1]
    )
