"""Dev predictions that cells have kept, as a number for each example whose mean is the score.

So every comparison of scores can be paired over examples, whatever the metric: of an accuracy the
number is 1 or 0, right or wrong; of a Pearson correlation it is the correlation plus the example's
influence on it (Hampel 1974), which is exact to first order. Of a mean over a task's parts it is
made of theirs.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.cell import Cell
from bench.overall import counted
from bench.protocol import PREDICTIONS
from bench.schema import CORRELATED, OVERALL, PART_SCORES, Row, row_key
from bench.setting import Values, ValuesOf, no_values
from bench.store import cell_folder, cells_folder
from minbert.scores import constant


def kept_values(runs: Path) -> ValuesOf:
    """The numbers of the rows of a CSV, from the folders of its cells beside it."""
    folder = cells_folder(runs)
    try:
        there = {path.name for path in folder.iterdir()}
    except OSError:
        return no_values

    @cache
    def values(name: str, metric: str) -> Values | None:
        return _read(folder / name / PREDICTIONS, metric)

    def values_of(row: Row) -> Values | None:
        name = _folder_name(runs, row)
        if name not in there or row.get("status") != "ok" or row.get("dev_metric") is None:
            return None
        return values(name, str(row["dev_metric"]))

    return values_of


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


def _read(path: Path, metric: str) -> Values | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(path)
        if metric != OVERALL:
            return values_for(metric, found["logits"], found["labels"])
        parts = [part for part in PART_SCORES if f"{part}.logits" in found]
        return mean_of_parts([_of_part(part, found) for part in parts])
    except (OSError, SafetensorError, KeyError, ValueError, IndexError):
        return None


def _of_part(part: str, found: Mapping[str, NDArray[np.generic]]) -> Values:
    """The numbers of a part's examples, whose mean is what its score counts."""
    metric = "pearson" if part in CORRELATED else "accuracy"
    return counted(part, values_for(metric, found[f"{part}.logits"], found[f"{part}.labels"]))


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
    x, y = logits[:, 0].astype(np.float64), labels.astype(np.float64)
    if constant(x) or constant(y) or x.std() == 0 or y.std() == 0:
        raise ValueError("a constant has no correlation")
    x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    correlation = float((x * y).mean())
    influence: Values = x * y - correlation * (x * x + y * y) / 2
    return influence + correlation
