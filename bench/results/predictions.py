"""Stored dev predictions and losses, and numbers of a row's own metric, whose mean is its score.

Predictions are read from the cells' folders, or else from `bench.results.outcomes`. Those of the
folds of a run are joined first, and have one score. For a mean over a task's parts the numbers are
computed from those of the parts.
"""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.common.files import open_tensors, read_file
from bench.common.progress import note_to_stderr
from bench.plan.cell import ON
from bench.plan.columns import PART_SCORES
from bench.plan.metrics import OVERALL, metric_of
from bench.plan.rows import Row, latest
from bench.results.outcomes import (
    Outcome,
    Values,
    ValuesOf,
    digest_of,
    joined,
    outcome_key,
    outcomes_file,
    read_outcomes,
    write_outcomes,
)
from bench.results.overall import counted, metric_of_part
from bench.results.protocol import PREDICTIONS, STEPS
from bench.results.scores import has_interval, numbers
from bench.results.store import cell_folder, cells_folder
from minbert.data.problems import problem_of
from minbert.files import is_folder

_EXACT: Final = 1e-6
"""How far the mean of outcomes may differ from the score in their row, which has seven digits."""

Parts = Mapping[str, Outcome]
"""Outcomes by the parts of a task; "" stands for a whole task."""


class PredictionsOf(Protocol):
    def __call__(self, rows: Sequence[Row], /, *, logits: bool = False) -> Parts | None:
        """The predictions of a run's rows, one for each fold, in their order, joined; with logits
        if they are asked for and stored. None where not stored."""


def no_predictions(_rows: Sequence[Row], *, logits: bool = False) -> Parts | None:
    del logits
    return None


def kept_predictions(runs: Path, note: Callable[[str], None] = note_to_stderr) -> PredictionsOf:
    """The predictions of a CSV's rows, from the folders of its cells or the file of outcomes;
    `note` is called with a line about outcomes that can't be read or don't fit."""
    path, note = outcomes_file(runs), cache(note)
    stored: dict[str, Outcome] = {}
    try:
        stored = read_outcomes(path)
    except ValueError as error:
        note(f"{path}: can't be read ({error}); scores without predictions are not paired")
    if not stored and not is_folder(cells_folder(runs)):
        return no_predictions
    examples: dict[tuple[object, ...], str] = {}
    shared: dict[str, Outcome] = {}  # labels and documents are stored once for all cells

    @cache
    def read(folder: Path, metric: str) -> Parts | None:
        outcomes = _read(folder, metric)
        return outcomes and {
            part: replace(one, labels=first.labels, documents=first.documents)
            for part, one in outcomes.items()
            for first in [shared.setdefault(one.examples, one)]
        }

    def of_row(row: Row, logits: bool) -> Parts | None:
        if row.status != "ok" or row.dev_metric is None:
            return None
        outcomes = _from_folder(runs, row, read_folder if logits else read)
        if outcomes is None:
            keys = {part: outcome_key(row, part) for part in parts_of(row.dev_metric)}
            outcomes = {part: stored[key] for part, key in keys.items() if key in stored}
            if outcomes and not _fit(row, outcomes):
                note(f"{path}: outcomes that don't fit their rows are left out")
                return None
        for part, outcome in outcomes.items():
            data = row.task, row.data_digest, row.fold, part
            if examples.setdefault(data, outcome.examples) != outcome.examples:
                note(f"{runs}: predictions of other examples than other rows have are left out")
                return None
        return outcomes or None

    def of_rows(rows: Sequence[Row], *, logits: bool = False) -> Parts | None:
        return _joined([of_row(row, logits) for row in rows])

    return of_rows


def _joined(outcomes: Sequence[Parts | None]) -> Parts | None:
    known = [one for one in outcomes if one is not None]
    if len(known) < len(outcomes) or not known or len({frozenset(one) for one in known}) > 1:
        return None
    try:
        return {part: joined([one[part] for one in known]) for part in known[0]}
    except ValueError:
        return None


def values_from(predictions_of: PredictionsOf) -> ValuesOf:
    def values_of(rows: Sequence[Row]) -> Values | None:
        metric = rows[0].dev_metric or ""
        outcomes = predictions_of(rows, logits=metric_of(metric).needs_logits)
        try:
            is_race = rows[0].race == ON  # which also compares settings that predict no entity
            if outcomes is None or not (is_race or all(map(has_interval, outcomes.values()))):
                return None
            return values(metric, outcomes)
        except ValueError:
            return None

    return values_of


def keep_outcomes(runs: Path, rows: Iterable[Row]) -> int:
    """Update the file of outcomes from the folders of the rows that count, and keep those without a
    folder; return their number. ValueError or OSError: why the file stays as it is: it can't be
    read or written, or would be too large."""
    path, kept = outcomes_file(runs), 0
    try:
        stored = read_outcomes(path)
    except ValueError as error:
        raise ValueError(f"it can't be read ({error})") from error
    for row in latest(rows).values():
        is_compared = row.is_ok and row.dev_metric is not None and not row.is_candidate
        if is_compared and (outcomes := _from_folder(runs, row, _read)):
            kept += 1
            stored |= {outcome_key(row, part): one for part, one in outcomes.items()}
    if kept:
        write_outcomes(path, stored)
    return kept


def first_of(sources: Sequence[PredictionsOf]) -> PredictionsOf:
    """The predictions of each row from the first source that has them."""

    def of_rows(rows: Sequence[Row], *, logits: bool = False) -> Parts | None:
        every = ((source([row], logits=logits) for source in sources) for row in rows)
        return _joined([next(filter(None, of_row), None) for of_row in every])

    return of_rows


def parts_of(metric: str) -> Sequence[str]:
    return tuple(PART_SCORES) if metric == OVERALL else ("",)


def outcome_of(
    logits: NDArray[np.generic],
    labels: NDArray[np.generic],
    unit: tuple[float, float] | None,
    documents: NDArray[np.generic] | None = None,
) -> Outcome:
    """The outcome of logits [N, C], or of words [M, C], with them, as of `Problem.predicted`.
    ValueError if logits and labels do not fit each other.

    Args:
        unit: mean and std by which a regression's logits return to the unit of the labels.
    """
    predicted = problem_of(labels).predicted(logits, labels)
    if labels.dtype.kind != "f":
        return Outcome(predicted, labels, digest_of(labels), logits, documents)
    if unit is not None:
        predicted = predicted.astype(np.float64) * unit[1] + unit[0]
    return Outcome(predicted, labels, digest_of(labels))


def read_folder(folder: Path, metric: str) -> Parts | None:
    """The outcomes of a cell's folder by part, with logits, by the row's metric; None where it has
    none that can be read."""
    from safetensors import SafetensorError

    outcomes = {}
    try:
        with open_tensors(folder / PREDICTIONS) as file:
            notes, names = file.metadata() or {}, set(file.keys())
            for part in parts_of(metric):
                prefix = f"{part}." if part else ""
                if f"{prefix}logits" not in names:
                    continue
                unit = [notes.get(f"{prefix}target_{name}") for name in ("mean", "deviation")]
                outcomes[part] = outcome_of(
                    file.get_tensor(f"{prefix}logits"),
                    file.get_tensor(f"{prefix}labels"),
                    (float(unit[0]), float(unit[1])) if unit[0] and unit[1] else None,
                    file.get_tensor(name) if (name := f"{prefix}documents") in names else None,
                )
    except (OSError, SafetensorError, KeyError, ValueError, IndexError, TypeError):
        return None
    return outcomes


def _read(folder: Path, metric: str) -> Parts | None:
    """As `read_folder`, without logits."""
    outcomes = read_folder(folder, metric)
    return outcomes and {part: replace(one, logits=None) for part, one in outcomes.items()}


def _from_folder(runs: Path, row: Row, read: Callable[[Path, str], Parts | None]) -> Parts | None:
    """The outcomes in a row's folder by part; None without any that fit the row."""
    outcomes = read(cell_folder(runs, row.name, *row.row_key), row.dev_metric or "")
    return outcomes if outcomes and _fit(row, outcomes) else None


def _fit(row: Row, outcomes: Parts) -> bool:
    """Whether outcomes give the score in their row; those without the logits that it takes fit."""
    metric = row.dev_metric or ""
    if metric_of(metric).needs_logits and all(one.logits is None for one in outcomes.values()):
        return True
    try:
        with np.errstate(all="ignore"):
            mean = values(metric, outcomes).mean()
    except ValueError:
        return False
    return bool(abs(mean - (row.dev_score or 0.0)) < _EXACT * max(1.0, abs(mean)))


def values(metric: str, outcomes: Parts) -> Values:
    if metric != OVERALL:
        if "" not in outcomes:
            raise ValueError("there are no predictions of the whole task")
        return numbers(metric, outcomes[""])
    return mean_of_parts(
        [counted(part, numbers(metric_of_part(part), one)) for part, one in outcomes.items()]
    )


def mean_of_parts(parts: Sequence[Values]) -> Values:
    """A number for each of the N examples of K parts; their mean is the mean of the parts' means.

    The parts' means are of different examples, so the variance of their mean is the sum of their
    variances over K². To give N numbers that variance, the n numbers of a part are all centred on
    the overall mean, and their deviations multiplied by N / (K n). Differences between two
    settings keep this property. ValueError without parts.
    """
    if not parts:
        raise ValueError("there is no part")
    total, means = sum(map(len, parts)), [float(values.mean()) for values in parts]
    centre = sum(means) / len(parts)
    every = zip(parts, means, strict=True)
    scaled = [centre + (one - mean) * total / (len(parts) * len(one)) for one, mean in every]
    return np.concatenate(scaled)


def values_for(metric: str, logits: NDArray[np.generic], labels: NDArray[np.generic]) -> Values:
    """A number for each example, with the score by a metric as their mean; the rest as of
    `outcome_of`. ValueError for a correlation of constants."""
    return numbers(metric, outcome_of(logits, labels, None))


LossesOf = Callable[[Row], Sequence[float]]
"""The losses of a row's training by step; empty where they are not stored."""


def no_losses(_row: Row) -> Sequence[float]:
    return ()


def kept_losses(runs: Sequence[Path]) -> LossesOf:

    @cache
    def read(path: Path) -> Sequence[float]:
        with suppress(OSError, ValueError, KeyError, TypeError, csv.Error):
            lines = read_file(path).decode().splitlines()
            return [float(step["loss"]) for step in csv.DictReader(lines)]
        return ()

    def losses_of(row: Row) -> Sequence[float]:
        folders = (cell_folder(path, row.name, *row.row_key) for path in runs)
        return next(filter(None, (read(folder / STEPS) for folder in folders)), ())

    return losses_of
