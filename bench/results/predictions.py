"""Stored dev predictions, as one number for each example; the mean of the numbers is the score.

So every comparison of scores can be paired over examples, whatever the metric. For an accuracy the
number is 1 or 0, right or wrong; for a Pearson correlation it is the correlation plus the example's
influence on it (Hampel 1974), which is exact to first order; for a mean over a task's parts it is
computed from theirs. Predictions are read from the cells' folders, or else from
`bench.results.outcomes`.
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
    Outcomes,
    Values,
    ValuesOf,
    digest_of,
    no_values,
    outcomes_file,
)
from bench.results.overall import counted, metric_of_part
from bench.results.protocol import PREDICTIONS
from bench.results.store import cell_folder, cells_folder, read_rows
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
    has_folders, path = is_folder(cells_folder(runs)), outcomes_file(runs)
    note = cache(note)
    try:
        outcomes = Outcomes.read(path)
    except ValueError as error:
        note(f"{path}: can't be read ({error}); scores without predictions are not paired")
        outcomes = Outcomes()
    if not has_folders and not outcomes.tensors:
        return no_values
    examples: dict[tuple[object, ...], str] = {}
    read = cache(_read)

    def agrees(row: Row, parts: Mapping[str, Outcome]) -> bool:
        """Whether outcomes are of the same examples as earlier ones of the same data."""
        data = row.task, row.data_digest
        return all(
            examples.setdefault((*data, part), outcome.examples) == outcome.examples
            for part, outcome in parts.items()
        )

    @cache
    def look_into_folders() -> None:
        """Learn the examples of all data from folders, which count before the file."""
        is_useful = has_folders and outcomes.tensors and runs.exists()
        for row in read_rows(runs) if is_useful else ():
            if _has_outcome(row) and (parts := _from_folder(runs, row, read)):
                agrees(row, parts)

    def values_of(row: Row) -> Values | None:
        if row.status != "ok" or row.dev_metric is None:
            return None
        parts = _from_folder(runs, row, read)
        if parts is None:
            look_into_folders()
            parts = _from_file(outcomes, row)
            if parts is None:
                note(f"{path}: outcomes that don't fit their rows are left out")
        if parts and not agrees(row, parts):
            note(f"{runs}: predictions of other examples than other rows have are left out")
            return None
        return _values(row.dev_metric, parts) if parts else None

    return values_of


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
        outcomes = Outcomes.read(path)
    except ValueError as error:
        raise ValueError(f"it can't be read ({error})") from error
    kept = 0
    for row in latest(rows).values():
        if _has_outcome(row) and (parts := _from_folder(runs, row)):
            kept += 1
            for part, outcome in parts.items():
                outcomes.keep(row, part, outcome)
    if kept:
        outcomes.write(path)
    return kept


def _has_outcome(row: Row) -> bool:
    """Whether reports compare a row's score."""
    return row.is_ok and row.dev_metric is not None and not row.is_candidate


def first_of(sources: Sequence[ValuesOf]) -> ValuesOf:
    """The numbers from the first source that has them."""

    def values_of(row: Row) -> Values | None:
        results = (source(row) for source in sources)
        return next((values for values in results if values is not None), None)

    return values_of


def _read(folder: Path, metric: str) -> dict[str, Outcome] | None:
    """The outcomes of a cell's folder by part; None where it has none that can be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(folder / PREDICTIONS)
        if metric != OVERALL:
            outcomes = {"": _outcome(metric, tensors["logits"], tensors["labels"])}
        else:
            outcomes = {
                part: _outcome(
                    metric_of_part(part), tensors[f"{part}.logits"], tensors[f"{part}.labels"]
                )
                for part in PART_SCORES
                if f"{part}.logits" in tensors
            }
        _values(metric, outcomes)
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
    parts = read(folder, row.dev_metric or "")
    return parts if parts and _fit(row, parts) else None


def _from_file(outcomes: Outcomes, row: Row) -> dict[str, Outcome] | None:
    """The outcomes of a row in a file, if any, by part; None if they contradict the row."""
    metric = row.dev_metric or ""
    metrics = {part: metric_of_part(part) for part in PART_SCORES}
    metrics = metrics if metric == OVERALL else {"": metric}
    try:
        parts = outcomes.of(row, {part: name == "pearson" for part, name in metrics.items()})
        return parts if not parts or _fit(row, parts) else None
    except ValueError:
        return None


def _fit(row: Row, parts: Mapping[str, Outcome]) -> bool:
    """Whether outcomes give the score in their row."""
    with np.errstate(all="ignore"):
        mean = _values(row.dev_metric or "", parts).mean()
    return bool(abs(mean - (row.dev_score or 0.0)) < _EXACT)


def _outcome(metric: str, logits: NDArray[np.generic], labels: NDArray[np.generic]) -> Outcome:
    """The outcome of predictions [N, C] of examples with labels [N]."""
    examples = digest_of(labels)
    if metric == "accuracy":
        return Outcome(values_for(metric, logits, labels) > 0, None, examples)
    return Outcome(logits[:, 0], labels, examples)


def _values(metric: str, outcomes: Mapping[str, Outcome]) -> Values:
    """The numbers of the examples of all parts.

    Raises:
        ValueError: without parts, or for a correlation of constants.
    """

    def values(outcome: Outcome) -> Values:
        if outcome.labels is None:
            return outcome.numbers.astype(np.float64)
        return _influences(outcome.numbers, outcome.labels)

    if metric != OVERALL:
        return values(outcomes[""])
    return mean_of_parts([counted(part, values(outcome)) for part, outcome in outcomes.items()])


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
