"""Stored dev predictions, as one number for each example; the mean of the numbers is the score.

The folds of a run are joined first: all their predictions together have one score. So every
comparison of scores can be paired over examples, whatever the metric. For an accuracy the number is
1 or 0, right or wrong; for a Pearson correlation it is the correlation plus the example's influence
on it (Hampel 1974), which is exact to first order; for a mean over a task's parts it is computed
from theirs. Predictions are read from the cells' folders, or else from `bench.results.outcomes`.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.plan.cell import OVERALL
from bench.plan.columns import PART_SCORES
from bench.plan.rows import Row, latest
from bench.results.outcomes import (
    Outcome,
    Values,
    ValuesOf,
    digest_of,
    no_values,
    outcome_key,
    outcomes_file,
    read_outcomes,
    write_outcomes,
)
from bench.results.overall import counted, metric_of_part
from bench.results.protocol import PREDICTIONS
from bench.results.store import cell_folder, cells_folder
from minbert.data.metrics import constant
from minbert.files import is_folder

_EXACT: Final = 1e-6
"""How far the mean of outcomes may differ from the score in their row, which has seven digits."""


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"note: {text}\n")


def kept_values(runs: Path, note: Callable[[str], None] = _to_stderr) -> ValuesOf:
    """The numbers of a CSV's rows, from the folders of its cells or from the file of outcomes.

    Args:
        note: called with a line about outcomes that can't be read or don't fit.
    """
    path = outcomes_file(runs)
    note = cache(note)
    try:
        stored = read_outcomes(path)
    except ValueError as error:
        note(f"{path}: can't be read ({error}); scores without predictions are not paired")
        stored = {}
    if not stored and not is_folder(cells_folder(runs)):
        return no_values
    examples: dict[tuple[object, ...], str] = {}
    read = cache(_read)

    def outcomes_of(row: Row) -> dict[str, Outcome] | None:
        metric = row.dev_metric
        if row.status != "ok" or metric is None:
            return None
        outcomes = _from_folder(runs, row, read)
        if outcomes is None:
            keys = {part: outcome_key(row, part) for part in _parts(metric)}
            outcomes = {part: stored[key] for part, key in keys.items() if key in stored}
            if outcomes and not _fit(row, outcomes):
                note(f"{path}: outcomes that don't fit their rows are left out")
                return None
        for part, outcome in outcomes.items():
            data = row.task, row.data_digest, row.fold, part
            if examples.setdefault(data, outcome.examples) != outcome.examples:
                note(f"{runs}: predictions of other examples than other rows have are left out")
                return None
        return outcomes

    def values_of(rows: Sequence[Row]) -> Values | None:
        folds = [outcomes for row in rows if (outcomes := outcomes_of(row))]
        metrics = {row.dev_metric for row in rows}
        if len(folds) < len(rows) or len(metrics) != 1:
            return None
        try:
            return _values(metrics.pop() or "", _joined(folds))
        except ValueError:
            return None

    return values_of


def _joined(folds: Sequence[Mapping[str, Outcome]]) -> Mapping[str, Outcome]:
    """The outcomes of several folds as those of one run.

    Raises:
        ValueError: if they are of different kinds.
    """
    if len(folds) == 1:
        return folds[0]
    if any(outcomes.keys() != {""} for outcomes in folds):
        raise ValueError("folds are of tasks without parts")
    ones = [outcomes[""] for outcomes in folds]
    labels = [one.labels for one in ones if one.labels is not None]
    if len(labels) not in (0, len(ones)):
        raise ValueError("some folds have labels, and others have none")
    return {
        "": Outcome(
            np.concatenate([one.numbers for one in ones]),
            np.concatenate(labels) if labels else None,
            "".join(one.examples for one in ones),
        )
    }


def keep_outcomes(runs: Path, rows: Iterable[Row]) -> int:
    """Update the file of outcomes from the folders of the rows that count; return their number.

    Outcomes in the file stay, unless a folder has newer ones.

    Raises:
        ValueError: with the reason why the file stays as it is: it can't be read, or would be too
            large.
        OSError: if it can't be written. The file stays as it was.
    """
    path = outcomes_file(runs)
    try:
        stored = read_outcomes(path)
    except ValueError as error:
        raise ValueError(f"it can't be read ({error})") from error
    kept = 0
    for row in latest(rows).values():
        if _has_outcome(row) and (outcomes := _from_folder(runs, row)):
            kept += 1
            stored |= {outcome_key(row, part): one for part, one in outcomes.items()}
    if kept:
        write_outcomes(path, stored)
    return kept


def _has_outcome(row: Row) -> bool:
    """Whether reports compare a row's score."""
    return row.is_ok and row.dev_metric is not None and not row.is_candidate


def first_of(sources: Sequence[ValuesOf]) -> ValuesOf:
    """The numbers from the first source that has them."""

    def values_of(rows: Sequence[Row]) -> Values | None:
        results = (source(rows) for source in sources)
        return next((values for values in results if values is not None), None)

    return values_of


def _parts(metric: str) -> Sequence[str]:
    """The parts that a score of this metric may have; "" stands for the whole task."""
    return tuple(PART_SCORES) if metric == OVERALL else ("",)


def _read(folder: Path, metric: str) -> dict[str, Outcome] | None:
    """The outcomes of a cell's folder by part; None where it has none that can be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    outcomes = {}
    try:
        tensors = load_file(folder / PREDICTIONS)
        for part in _parts(metric):
            prefix = f"{part}." if part else ""
            if f"{prefix}logits" in tensors:
                logits, labels = tensors[f"{prefix}logits"], tensors[f"{prefix}labels"]
                if (metric_of_part(part) if part else metric) == "accuracy":
                    right = values_for("accuracy", logits, labels) > 0
                    outcomes[part] = Outcome(right, None, digest_of(labels))
                else:
                    outcomes[part] = Outcome(logits[:, 0], labels, digest_of(labels))
    except (OSError, SafetensorError, KeyError, ValueError, IndexError):
        return None
    return outcomes


def _from_folder(
    runs: Path, row: Row, read: Callable[[Path, str], dict[str, Outcome] | None] = _read
) -> dict[str, Outcome] | None:
    """The outcomes in a row's folder by part; None without any that fit the row."""
    try:
        folder = cell_folder(runs, row.name, *row.row_key)
    except ValueError:
        return None
    outcomes = read(folder, row.dev_metric or "")
    return outcomes if outcomes and _fit(row, outcomes) else None


def _fit(row: Row, outcomes: Mapping[str, Outcome]) -> bool:
    """Whether outcomes give the score in their row."""
    try:
        with np.errstate(all="ignore"):
            mean = _values(row.dev_metric or "", outcomes).mean()
    except ValueError:
        return False
    return bool(abs(mean - (row.dev_score or 0.0)) < _EXACT)


def _values(metric: str, outcomes: Mapping[str, Outcome]) -> Values:
    """The numbers of the examples of all parts.

    Raises:
        ValueError: without parts, or for a correlation of constants.
    """
    values = {
        part: one.numbers.astype(np.float64)
        if one.labels is None
        else _influences(one.numbers, one.labels)
        for part, one in outcomes.items()
    }
    if metric != OVERALL:
        return values[""]
    return mean_of_parts([counted(part, numbers) for part, numbers in values.items()])


def mean_of_parts(parts: Sequence[Values]) -> Values:
    """A number for each of the N examples of K parts; their mean is the mean of the parts' means.

    The parts' means are of different examples, so the variance of their mean is the sum of their
    variances over K². To give N numbers that variance, the n numbers of a part are all centred on
    the overall mean, and their deviations multiplied by N / (K n). Differences between two
    settings keep this property.

    Raises:
        ValueError: without parts.
    """
    if not parts:
        raise ValueError("there is no part")
    total, means = sum(map(len, parts)), [float(values.mean()) for values in parts]
    centre = sum(means) / len(parts)
    return np.concatenate(
        [
            centre + (values - mean) * total / (len(parts) * len(values))
            for values, mean in zip(parts, means, strict=True)
        ]
    )


def values_for(metric: str, logits: NDArray[np.generic], labels: NDArray[np.generic]) -> Values:
    """A number for each example, with the score as their mean.

    Args:
        metric: `accuracy` or `pearson`.
        logits: [N, C]; [N, 1] for a correlation, or for two classes with one logit.
        labels: [N].

    Raises:
        ValueError: for a correlation of constants.
    """
    if metric == "accuracy":
        single = logits.shape[1] == 1
        predicted = logits[:, 0].astype(np.float64) > 0 if single else logits.argmax(axis=1)
        right: Values = (predicted == labels).astype(np.float64)
        return right
    return _influences(logits[:, 0], labels)


def _influences(predicted: NDArray[np.generic], labels: NDArray[np.generic]) -> Values:
    """For each example the correlation plus the example's influence on it."""
    x, y = predicted.astype(np.float64), labels.astype(np.float64)
    if constant(x) or constant(y) or x.std() == 0 or y.std() == 0:
        raise ValueError("a constant has no correlation")
    x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    correlation = float((x * y).mean())
    influence: Values = x * y - correlation * (x * x + y * y) / 2
    return influence + correlation
