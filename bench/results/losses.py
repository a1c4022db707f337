"""The losses of training steps, from the cells' folders."""

import csv
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from bench.plan.rows import Row
from bench.results.protocol import STEPS
from bench.results.store import cell_folder

LossesOf = Callable[[Row], Sequence[float]]
"""The losses of a row's training by step; empty where they are not stored."""


def no_losses(_row: Row) -> Sequence[float]:
    """A `LossesOf` that has none for any row."""
    return ()


def kept_losses(runs: Sequence[Path]) -> LossesOf:
    """The losses of the rows of some CSVs."""

    @cache
    def read(path: Path) -> Sequence[float]:
        with suppress(OSError, ValueError, KeyError, TypeError, csv.Error):
            lines = path.read_text(encoding="utf-8").splitlines()
            return [float(step["loss"]) for step in csv.DictReader(lines)]
        return ()

    def losses_of(row: Row) -> Sequence[float]:
        for path in runs:
            with suppress(ValueError):
                if losses := read(cell_folder(path, row.name, *row.row_key) / STEPS):
                    return losses
        return ()

    return losses_of
