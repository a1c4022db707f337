"""Dev predictions that cells have kept, as a number for each example whose mean is the score.

So every comparison of scores can be paired over examples, whatever the metric: of an accuracy the
number is 1 or 0, right or wrong; of a Pearson correlation it is the correlation plus the example's
influence on it (Hampel 1974), which is exact to first order. Of a mean over a task's parts it is
made of theirs. They are read from the cells' folders, or else from `bench.results.outcomes`.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.plan.cell import CANDIDATE, OVERALL, Cell, Row
from bench.plan.columns import CORRELATED, PART_SCORES, latest, row_key
from bench.results.outcomes import (
    Outcome,
    Outcomes,
    Values,
    ValuesOf,
    digest_of,
    no_values,
    outcomes_file,
)
from bench.results.overall import counted
from bench.results.protocol import PREDICTIONS
from bench.results.store import cell_folder, cells_folder, read_rows
from minbert.data.metrics import constant

_EXACT: Final = 1e-6
"""How far the mean of outcomes may be from the score in their row, which has seven digits."""


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"note: {text}\n")


def kept_values(runs: Path, note: Callable[[str], None] = _to_stderr) -> ValuesOf:
    """The numbers of the rows of a CSV, from the folders of its cells, or the file of outcomes.

    Args:
        note: takes a line about outcomes that can't be read or don't fit.
    """
    folders, path = _folders(runs), outcomes_file(runs)
    note = cache(note)
    try:
        outcomes = Outcomes.read(path)
    except ValueError as error:
        note(f"{path}: can't be read ({error}); scores whose predictions are gone are not paired")
        outcomes = Outcomes()
    if not folders and not outcomes.tensors:
        return no_values
    same: dict[tuple[object, ...], str] = {}
    read = cache(_read)

    def of_folder(row: Row) -> dict[str, Outcome] | None:
        folder = folders.get(_folder_name(runs, row))
        found = read(folder, str(row["dev_metric"])) if folder is not None else None
        return found if found and _fit(row, found) else None

    def agrees(row: Row, found: Mapping[str, Outcome]) -> bool:
        """Whether outcomes are of the same examples as those before of the same data."""
        data = row.get("task"), row.get("data_digest")
        return all(
            same.setdefault((*data, part), outcome.examples) == outcome.examples
            for part, outcome in found.items()
        )

    @cache
    def look_into_folders() -> None:
        """Take the examples of all data from folders, before a file can say which they are."""
        there = folders and outcomes.tensors and runs.exists()
        for row in read_rows(runs) if there else ():
            if _has_outcome(row) and (found := of_folder(row)):
                agrees(row, found)

    def values_of(row: Row) -> Values | None:
        if row.get("status") != "ok" or row.get("dev_metric") is None:
            return None
        found = of_folder(row)
        if found is None:
            look_into_folders()
            found = _of_file(outcomes, row)
            if found is None:
                note(f"{path}: outcomes that don't fit their rows are left out")
        if found and not agrees(row, found):
            note(f"{runs}: predictions of other examples than other rows have are left out")
            return None
        return _values(str(row["dev_metric"]), found) if found else None

    return values_of


def _folders(runs: Path) -> dict[str, Path]:
    """The folders of the cells of a CSV, by name."""
    try:
        return {path.name: path for path in cells_folder(runs).iterdir()}
    except OSError:
        return {}


def keep_outcomes(runs: Path, rows: Iterable[Row]) -> int:
    """Bring the file of outcomes up to date with the folders of the rows that count; how many.

    What is in the file stays, but for what folders have anew.

    Raises:
        ValueError: saying why the file stays as it is: it can't be read, or would be too large.
        OSError: if it can't be written, which leaves it as it was.
    """
    path, folders = outcomes_file(runs), _folders(runs)
    try:
        outcomes = Outcomes.read(path)
    except ValueError as error:
        raise ValueError(f"it can't be read ({error})") from error
    kept = 0
    for row in latest(rows).values():
        folder = folders.get(_folder_name(runs, row))
        if folder is None or not _has_outcome(row):
            continue
        found = _read(folder, str(row["dev_metric"]))
        if found and _fit(row, found):
            kept += 1
            for part, outcome in found.items():
                outcomes.keep(row, part, outcome)
    if kept:
        outcomes.write(path)
    return kept


def _has_outcome(row: Row) -> bool:
    """Whether a row's score is one that reports compare."""
    searches = row.get("learning_rate_source") == CANDIDATE
    return row.get("status") == "ok" and row.get("dev_metric") is not None and not searches


def first_of(several: Sequence[ValuesOf]) -> ValuesOf:
    """The numbers from the first place that has them."""

    def values_of(row: Row) -> Values | None:
        found = (each(row) for each in several)
        return next((values for values in found if values is not None), None)

    return values_of


def _folder_name(runs: Path, row: Row) -> str:
    try:
        return cell_folder(runs, Cell.from_columns(row).name, *row_key(row)).name
    except ValueError:
        return ""


def _read(folder: Path, metric: str) -> dict[str, Outcome] | None:
    """The outcomes of a cell's folder by part; None where it has none that can be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(folder / PREDICTIONS)
        if metric != OVERALL:
            outcomes = {"": outcome_of(metric, found["logits"], found["labels"])}
        else:
            parts = [part for part in PART_SCORES if f"{part}.logits" in found]
            outcomes = {
                part: outcome_of(_metric(part), found[f"{part}.logits"], found[f"{part}.labels"])
                for part in parts
            }
        _values(metric, outcomes)
    except (OSError, SafetensorError, KeyError, ValueError, IndexError):
        return None
    return outcomes


def _of_file(outcomes: Outcomes, row: Row) -> dict[str, Outcome] | None:
    """The outcomes of a row in a file, which may have none; None if they can't be the row's."""
    metric = str(row["dev_metric"])
    parts = PART_SCORES if metric == OVERALL else {"": metric}
    try:
        found = outcomes.of(row, {part: _metric(part, metric) == "pearson" for part in parts})
        return found if not found or _fit(row, found) else None
    except ValueError:
        return None


def _fit(row: Row, found: Mapping[str, Outcome]) -> bool:
    """Whether outcomes give the score that is in their row."""
    with np.errstate(all="ignore"):
        mean = _values(str(row["dev_metric"]), found).mean()
    return bool(abs(mean - float(row["dev_score"] or 0)) < _EXACT)


def _metric(part: str, whole: str = OVERALL) -> str:
    """The metric of a part, or of a task without parts."""
    if whole != OVERALL:
        return whole
    return "pearson" if part in CORRELATED else "accuracy"


def outcome_of(metric: str, logits: NDArray[np.generic], labels: NDArray[np.generic]) -> Outcome:
    """What predictions [N, C] make of examples with labels [N]."""
    examples = digest_of(labels)
    if metric == "accuracy":
        return Outcome(values_for(metric, logits, labels) > 0, None, examples)
    return Outcome(logits[:, 0], labels, examples)


def _values(metric: str, outcomes: Mapping[str, Outcome]) -> Values:
    """The numbers of the examples of all parts.

    Raises:
        ValueError: without parts, or for a correlation of constants.
    """
    if metric != OVERALL:
        return _of_outcome(outcomes[""])
    return mean_of_parts([counted(part, _of_outcome(of)) for part, of in outcomes.items()])


def _of_outcome(outcome: Outcome) -> Values:
    if outcome.labels is None:
        return outcome.numbers.astype(np.float64)
    return _influences(outcome.numbers, outcome.labels)


def mean_of_parts(parts: Sequence[Values]) -> Values:
    """A number for each example of K parts, N in all, with the mean of the parts' means as theirs.

    As the parts' means are of different examples, the variance of that mean is the sum of theirs
    over K². So that N numbers have it, those of a part with n differ from one another N / (K n)
    times as much, and the parts' means don't differ. Differences of two settings keep that.

    Raises:
        ValueError: without parts.
    """
    if not parts:
        raise ValueError("no part is kept")
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
        logits: [N, C], or [N, 1] for a correlation, or for two classes by one logit.
        labels: [N].

    Raises:
        ValueError: for a correlation of constants.
    """
    if metric == "accuracy":
        found = (
            logits[:, 0].astype(np.float64) > 0 if logits.shape[1] == 1 else logits.argmax(axis=1)
        )
        right: Values = (found == labels).astype(np.float64)
        return right
    return _influences(logits[:, 0], labels)


def _influences(predicted: NDArray[np.generic], labels: NDArray[np.generic]) -> Values:
    """Of each example the correlation plus its influence on it."""
    x, y = predicted.astype(np.float64), labels.astype(np.float64)
    if constant(x) or constant(y) or x.std() == 0 or y.std() == 0:
        raise ValueError("a constant has no correlation")
    x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    correlation = float((x * y).mean())
    influence: Values = x * y - correlation * (x * x + y * y) / 2
    return influence + correlation
