"""Rows scored by another metric than their own, from stored predictions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from bench.common.messages import count
from bench.common.progress import note_to_stderr
from bench.plan.cell import Columns
from bench.plan.metrics import WORD_CLASSES, WORDS, check_metric, metric_of, problem_of
from bench.plan.rows import Row
from bench.results.exports import Figures, read_exports
from bench.results.facts import DataFacts, read_facts
from bench.results.outcomes import Outcome, ValuesOf
from bench.results.predictions import (
    LossesOf,
    PredictionsOf,
    first_of,
    kept_losses,
    kept_predictions,
    no_losses,
    no_predictions,
    values_from,
)
from bench.results.scores import defined_score, interval_of
from bench.results.store import read_plan, read_rows


@dataclass(frozen=True)
class Results:
    runs: Sequence[Path]
    rows: Sequence[Row]
    facts: Mapping[str, DataFacts] = field(default_factory=dict)
    exports: Mapping[str, Figures] = field(default_factory=dict)
    predictions_of: PredictionsOf = no_predictions
    losses_of: LossesOf = no_losses

    @cached_property
    def values_of(self) -> ValuesOf:
        """The numbers of dev examples by the runs that predicted them, as `values_from`."""
        return values_from(self.predictions_of)

    @cached_property
    def planned(self) -> list[Row]:
        """The rows, still without results, of the cells that were planned last."""
        return [row for path in self.runs for row in read_plan(path)]


def read_results(runs: Sequence[Path], metric: str | None) -> Results:
    """Read files of results, scored by a metric, or by each row's own. InputError if a file can't
    be read, or no row is of a problem that has the metric."""
    rows = [row for path in runs for row in read_rows(path)]
    facts = read_facts(*runs)
    predictions_of = first_of([kept_predictions(path) for path in runs])
    if metric is not None:
        rows = rescored(rows, metric, predictions_of, facts)
    return Results(runs, rows, facts, read_exports(*runs), predictions_of, kept_losses(runs))


def rescored(
    rows: Sequence[Row],
    metric: str,
    predictions_of: PredictionsOf,
    facts: Mapping[str, DataFacts],
    note: Callable[[str], None] = note_to_stderr,
) -> list[Row]:
    """The rows with another dev metric: its score, interval and the score of the majority class.
    InputError if no row is of a problem that has the metric.

    Rows of problems without this metric keep their own, and so do candidates of a search for
    learning rates, which chose by it. Without predictions from which the metric can be computed, or
    where it is not defined, a row has no score. Flags stay those of the row's own metric.

    Args:
        facts: by `data_digest`, for the majority class.
        note: called with a line about rows without a score or of other problems, and about classes
            with too few examples for the metric's intervals.
    """
    scored = [row for row in rows if row.dev_metric is not None and not row.is_trial]
    problems = metric_of(metric).problems
    fitting = {row.dev_metric for row in scored if problem_of(row.dev_metric) in problems}
    if scored and not fitting:
        check_metric(metric, problem_of(scored[0].dev_metric))
    result = [
        _rescored(row, metric, predictions_of, facts.get(row.data_digest))
        if row.dev_metric in fitting - {metric} and not row.is_trial
        else row
        for row in rows
    ]
    lost = sum(old.has_score and not new.has_score for old, new in zip(rows, result, strict=True))
    for digest in dict.fromkeys(row.data_digest for row in scored if row.dev_metric in fitting):
        if caution := digest in facts and facts[digest].caution(metric):
            note(f"--metric {metric}: {caution}")
    if others := sum(row.dev_metric not in fitting for row in scored):
        are = count(others, "row is", "rows are")
        note(f"--metric {metric}: {are} of other problems, by their own metric")
    if lost:
        needed = "the logits in the cells' folders"
        if not metric_of(metric).needs_logits:
            needed = "predictions in the cells' folders or in the file of outcomes"
        have = count(lost, "row has", "rows have")
        note(
            f"--metric {metric}: {have} no score: it is not defined for the predictions, or needs "
            f"{needed}"
        )
    return result


def _rescored(row: Row, metric: str, predictions_of: PredictionsOf, facts: DataFacts | None) -> Row:
    outcomes = predictions_of([row], logits=metric_of(metric).needs_logits) or {}
    names = ("dev_score", "dev_ci_low", "dev_ci_high", "majority_score")
    columns: Columns = {"dev_metric": metric, **dict.fromkeys(names)}
    try:
        score = interval_of(metric, [outcomes[""]])
    except (KeyError, ValueError):
        return row | columns
    majority = majority_score(metric, outcomes[""], facts)
    columns |= zip(names, (score.value, score.low, score.high, majority), strict=True)
    return row | columns


def majority_score(metric: str, outcome: Outcome, facts: DataFacts | None) -> float | None:
    """The score of always predicting the majority class of the training examples, or the labels
    that most of them have; None for a regression, or where classes are not known."""
    counts = np.array([train for train, _ in facts.class_counts.values()] if facts else [])
    labels = outcome.labels
    if facts is None or labels is None or not counts.size or outcome.has_numbers:
        return None
    if outcome.problem == WORDS:
        predicted = np.minimum(labels, 0)  # O
    elif outcome.has_classes or outcome.problem == WORD_CLASSES:
        predicted = np.where(np.equal(labels, -1), labels, counts.argmax()).astype(labels.dtype)
    else:
        predicted = np.tile(2 * counts > facts.train, (len(labels), 1))
    logits = np.zeros((len(labels), max(len(counts), 2)))
    return defined_score(metric, Outcome(predicted, labels, "", logits))
