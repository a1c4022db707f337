"""Where time goes: training, evaluation, and overhead, which is all the rest."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from bench.plan.cell import Row

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600


@dataclass(frozen=True)
class Times:
    """Seconds of cells that ended ok, and of what was between them.

    `startup_s` is from a launch to the first training step; `rest_s` what else a cell takes: timing
    its steps, writing and ending. `between_s` is the parent's own (planning, predictions, rows and
    the report) and what --save-weights takes; 0 where cells alone are looked at.
    """

    cells: int
    train_s: float
    eval_s: float
    startup_s: float
    rest_s: float
    between_s: float = 0.0

    @property
    def overhead_s(self) -> float:
        """All that is neither training nor evaluation."""
        return self.startup_s + self.rest_s + self.between_s

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.train_s + self.eval_s + self.overhead_s

    def to_json(self) -> dict[str, float]:
        """Each part in seconds, and the overhead's share."""
        names = ("train_s", "eval_s", "startup_s", "rest_s", "between_s", "overhead_s", "total_s")
        told = {name: round(getattr(self, name), 3) for name in names}
        return told | {"overhead": round(self.overhead_s / self.total_s, 4)}

    def __str__(self) -> str:
        """As a sentence without its full stop."""
        parts = {
            "start-up": self.startup_s,
            "timing, writing and ending": self.rest_s,
            "between cells": self.between_s,
        }
        total = self.total_s
        of = ", ".join(f"{name} {s / total:.1%}" for name, s in parts.items() if s)
        return (
            f"{_seconds_text(total)}, of which training {self.train_s / total:.1%}, evaluation "
            f"{self.eval_s / total:.1%} and overhead {self.overhead_s / total:.1%}"
            + (f" ({of})" if of else "")
        )


def overhead_s(row: Row) -> float | None:
    """What a cell took beside training and evaluation, s; None where that was not measured."""
    parts = [row.get(name) for name in ("wall_s", "train_s", "eval_s")]
    if not all(isinstance(value, int | float) for value in parts):
        return None
    wall, train, evaluation = (float(value) for value in parts if value is not None)
    return max(0.0, wall - train - evaluation)


def times_of(rows: Iterable[Row], between_s: float = 0.0) -> Times | None:
    """The times of those rows that ended ok; None where none of them has any."""
    cells = 0
    train = evaluation = startup = rest = 0.0
    for row in rows:
        overhead = overhead_s(row)
        if row.get("status") != "ok" or overhead is None:
            continue
        begun = min(float(row.get("startup_s") or 0.0), overhead)
        cells += 1
        train += float(row.get("train_s") or 0.0)
        evaluation += float(row.get("eval_s") or 0.0)
        startup += begun
        rest += overhead - begun
    found = Times(cells, train, evaluation, startup, rest, between_s)
    return found if cells and found.total_s > 0 else None


class Account:
    """Adds up the time of a run of cells, from when it is made.

    Waiting for other grids, and cells that did not end ok, are no part of it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._others_s = 0.0
        self._rows: list[Row] = []

    def now(self) -> float:
        """A moment, for `waited_since`."""
        return self._clock()

    def waited_since(self, moment: float) -> None:
        """All time since then was waiting for others."""
        self._others_s += self._clock() - moment

    def add(self, row: Row) -> None:
        """A cell that was run now."""
        self._rows.append(row)

    def times(self) -> Times | None:
        """Those up to now; None where no cell ended ok."""
        wall = sum(float(row.get("wall_s") or 0.0) for row in self._rows)
        between = self._clock() - self._begun - self._others_s - wall
        return times_of(self._rows, max(0.0, between))


def _seconds_text(seconds: float) -> str:
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    return f"{seconds / _HOUR_S:.1f} h"
