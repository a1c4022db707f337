"""The time that one command may take, and the messages about cells that exceed it."""

import math
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Final

from bench.plan.rows import RESUMED, Row

_LEFT_OUT: Final = "left out: "
"""The beginning of the message of a cell that was left out; no other message begins so."""


class Budget:
    """Seconds that a command may take from the creation of this object; unlimited by default. It is
    checked before a cell starts, and never stops a cell that is running. `left_out` has the
    predicted time, in seconds, of each cell that was left out, by the cell's key; None without
    one."""

    def __init__(
        self, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds = seconds
        self.left_out: dict[Hashable, float | None] = {}
        self._clock = clock
        self._end = clock() + seconds

    def left_s(self) -> float:
        """Seconds left; 0 once the budget is used up."""
        return max(0.0, self._end - self._clock())

    def fits(self, predicted_s: float | None) -> bool:
        """Whether a cell may start; one without a prediction may while any time is left."""
        left_s = self.left_s()
        return left_s > 0 and (predicted_s is None or predicted_s <= left_s)

    def leave_out(self, key: Hashable, predicted_s: float | None) -> str | None:
        """Record a cell that does not fit, and return its message; None if it fits."""
        left_s = self.left_s()
        if self.fits(predicted_s):
            return None
        self.left_out[key] = predicted_s
        whole = f"the budget of {minutes(self.seconds)} min"
        rest = f"{minutes(left_s)} of {whole} are left" if left_s else f"{whole} is used up"
        if predicted_s is None:
            return f"{_LEFT_OUT}its time is not predicted, and {whole} is used up"
        return f"{_LEFT_OUT}predicted to take {minutes(predicted_s)} min, and {rest}"


def minutes(seconds: float) -> str:
    """Seconds as minutes, without the unit: `0.25`, `3.4`, `12`, `1,440`."""
    value = seconds / 60
    places = 2 if value < 1 else 1 if value < 100 else 0
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if places else text


def was_left_out(row: Row) -> bool:
    return row.status == "skipped" and (row.message or "").startswith(_LEFT_OUT)


def needs_no_row(last: Row | None, why: str) -> bool:
    """Whether a cell that is skipped for a reason needs no new row, because its last one says
    enough. A skip is not recorded twice for the same reason, whatever time was left. And a cell
    that was to run again and is left out keeps the result that it has."""
    if last is None:
        return False
    if why.startswith(_LEFT_OUT):
        return was_left_out(last) or last.status not in RESUMED
    return (last.status, last.message) == ("skipped", why)


def that_fit(
    seconds: float, predicted: Iterable[float | None], slots: int = 1
) -> list[bool | None]:
    """Whether each of several cells fits into a budget if so many run at a time and take what is
    predicted, in seconds; None for a cell without a prediction."""
    fitting: list[bool | None] = []
    left = [seconds] * slots
    for cell_s in predicted:
        slot = left.index(max(left))  # the first that is free
        fits = None if cell_s is None else cell_s <= left[slot]
        left[slot] -= cell_s if fits and cell_s is not None else 0.0
        fitting.append(fits)
    return fitting
