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
    return ()


def kept_losses(runs: Sequence[Path]) -> LossesOf:

    @cache
    def read(path: Path) -> Sequence[float]:
        with suppress(OSError, ValueError, KeyError, TypeError, csv.Error):
            lines = path.read_text(encoding="utf-8").splitlines()
            return [float(step["loss"]) for step in csv.DictReader(lines)]
        return ()

    def losses_of(row: Row) -> Sequence[float]:
        with suppress(ValueError):
            folders = (cell_folder(path, row.name, *row.row_key) for path in runs)
            return next(filter(None, (read(folder / STEPS) for folder in folders)), ())
        return ()

    return losses_of
