"""How time divides into training, evaluation, and overhead, which is all the rest."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench.plan.rows import Row


@dataclass(frozen=True)
class Times:
    """Seconds of cells that ended ok, and between them.

    `startup_s` is the time from launch to the first training step; `rest_s` the rest of a cell's
    overhead: timing its steps, writing and ending. `between_s` is the parent's own work (planning,
    predictions, reference points, rows and the report) and saving weights; 0 for cells alone.
    """

    cells: int
    train_s: float
    eval_s: float
    startup_s: float
    rest_s: float
    between_s: float = 0.0

    @property
    def overhead_s(self) -> float:
        return self.startup_s + self.rest_s + self.between_s

    @property
    def total_s(self) -> float:
        return self.train_s + self.eval_s + self.overhead_s

    def to_json(self) -> dict[str, float]:
        names = ("train_s", "eval_s", "startup_s", "rest_s", "between_s", "overhead_s", "total_s")
        seconds = {name: round(getattr(self, name), 3) for name in names}
        return seconds | {"overhead": round(self.overhead_s / self.total_s, 4)}


def overhead_s(row: Row) -> float | None:
    """A cell's seconds besides training and evaluation; None where they were not measured."""
    if row.wall_s is None or row.train_s is None or row.eval_s is None:
        return None
    return max(0.0, row.wall_s - row.train_s - row.eval_s)


def times_of(rows: Iterable[Row], between_s: float = 0.0) -> Times | None:
    """The times of the rows that ended ok; None where none of them has any."""
    ok = (row for row in rows if row.is_ok)
    cells = [(row, overhead) for row in ok if (overhead := overhead_s(row)) is not None]
    startup_s = sum(min(row.startup_s or 0.0, overhead) for row, overhead in cells)
    rest_s = sum(overhead for _, overhead in cells) - startup_s
    train_s = sum(row.train_s or 0.0 for row, _ in cells)
    eval_s = sum(row.eval_s or 0.0 for row, _ in cells)
    times = Times(len(cells), train_s, eval_s, startup_s, rest_s, between_s)
    return times if cells and times.total_s > 0 else None


class Account:
    """The time of a run of cells since the creation of this object, of all worker slots together;
    without waits for other grids, and cells that did not end ok.

    Args:
        slots: the most cells that run at a time; 0: they run on other machines, and what is between
            them, such as a wait in a queue, does not count.
    """

    def __init__(self, slots: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
        self._clock = clock
        self._begun = clock()
        self._others_s = 0.0
        self._rows: list[Row] = []

    def waited(self, seconds: float) -> None:
        self._others_s += seconds

    def add(self, row: Row) -> None:
        self._rows.append(row)

    def times(self) -> Times | None:
        """The times up to now; None where no cell ended ok."""
        wall = sum(row.wall_s or 0.0 for row in self._rows)
        between = self._slots * (self._clock() - self._begun) - self._others_s - wall
        return times_of(self._rows, max(0.0, between))
