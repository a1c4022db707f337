"""What differences of scores a grid can show, before it runs. Pure.

The variances are typical ones, medians over pairs of the committed runs with three seeds; those of
other data differ. docs/deciding.md says how they were measured.
"""

from collections.abc import Collection
from math import ceil, sqrt
from statistics import NormalDist
from typing import Final

from bench.plan.cell import Cell
from bench.plan.metrics import Metric
from bench.report.text import sentences
from bench.stats.best import FEWEST_SEEDS, LEVEL
from bench.stats.intervals import POWER_Z

OF_EXAMPLES: Final = 0.016
"""The variance over examples of the difference of two settings' outcomes, means over seeds."""
OF_SEEDS: Final = 0.062
"""The variance between seeds of the difference of two scores, times the number of examples."""


def shown_size(examples: int, seeds: int, settings: int) -> float:
    """The difference of accuracies that is expected to be shown four times out of five."""
    return _quantiles(settings) * sqrt((OF_EXAMPLES + OF_SEEDS / seeds) / examples)


def needed_seeds(size: float, examples: int, settings: int) -> int | None:
    """The seeds that are expected to show a difference; None where no number of seeds does."""
    left = (size / _quantiles(settings)) ** 2 * examples - OF_EXAMPLES
    return ceil(OF_SEEDS / left) if left > 0 else None


def _quantiles(settings: int) -> float:
    """Standard errors of a difference that is shown four times out of five (Bonferroni)."""
    return NormalDist().inv_cdf(1 - LEVEL / max(settings - 1, 1)) + POWER_Z


def power_note(cells: Collection[Cell], examples: int, metric: Metric) -> list[str]:
    """A sentence on what the cells of a grid can show, by a metric whose variance is known, on a
    number of dev examples or, with folds, of all."""
    seeds = {cell.seed for cell in cells}
    settings = round(len(cells) / len(seeds) / max(len({cell.fold for cell in cells}), 1))
    if metric.label != "accuracy" or settings < 2 or not examples:
        return []
    size = shown_size(examples, max(len(seeds), FEWEST_SEEDS), settings)
    return sentences(
        "power", seeds=len(seeds), fewest=FEWEST_SEEDS, examples=examples, metric=metric,
        size=float(f"{size:.2g}"), beyond=size > metric.margin,
        needed=needed_seeds(metric.margin, examples, settings),
    )  # fmt: skip
