"""The time that one command may take, and what is said of the cells that are left out for it."""

import math
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Final

from bench.plan.cell import Value
from bench.plan.columns import RESUMED

_MINUTE_S: Final = 60
_LEFT_OUT: Final = "left out: "
"""How the message of such a cell begins, and no other does."""


class Budget:
    """Seconds that a command may take, from when this is made; by default there is no limit.

    It is asked before a cell begins. A cell that runs is not ended by it.

    Attributes:
        seconds: all of it.
        left_out: keys of the cells that were left out, and how long each was predicted to take, s;
            None where that was not predicted.
    """

    def __init__(
        self, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds = seconds
        self.left_out: dict[Hashable, float | None] = {}
        self._clock = clock
        self._end = clock() + seconds

    def left_s(self) -> float:
        """What is left of it, s; 0 once it is used up."""
        return max(0.0, self._end - self._clock())

    def fits(self, predicted_s: float | None) -> bool:
        """Whether a cell may begin; one whose time is not predicted may while anything is left."""
        left_s = self.left_s()
        return left_s > 0 and (predicted_s is None or predicted_s <= left_s)

    def leave_out(self, key: Hashable, predicted_s: float | None) -> str | None:
        """The message of a cell that does not fit, which is noted; None if it does."""
        left_s = self.left_s()
        if self.fits(predicted_s):
            return None
        self.left_out[key] = predicted_s
        whole = f"the budget of {minutes(self.seconds)} min"
        rest = f"{minutes(left_s)} of {whole} are left" if left_s else f"{whole} is used up"
        if predicted_s is None:
            return f"{_LEFT_OUT}its time is not predicted, and {whole} is used up"
        return f"{_LEFT_OUT}predicted to take {minutes(predicted_s)} min, and {rest}"

    def lines(self) -> list[str]:
        """Lines on what was left out, for the end of a command."""
        if not self.left_out:
            return []
        whole = f"the budget of {minutes(self.seconds)} min"
        lines = [f"{len(self.left_out)} cells were left out for {whole}\n"]
        known = [s for s in self.left_out.values() if s is not None]
        longer = [s for s in known if s > self.seconds]
        if longer:
            lines.append(
                f"{len(longer)} of them are predicted to take longer than all of it, up to "
                f"{minutes(max(longer))} min: they run with a larger --budget, or without one\n"
            )
        return lines


def minutes(seconds: float) -> str:
    """Seconds as minutes without their unit: `0.25`, `3.4`, `12`, `1,440`."""
    value = seconds / _MINUTE_S
    places = 2 if value < 1 else 1 if value < 100 else 0
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if places else text


def was_left_out(row: Mapping[str, Value]) -> bool:
    """Whether a row is that of a cell which was left out for its time."""
    skipped = row.get("status") == "skipped"
    return skipped and str(row.get("message") or "").startswith(_LEFT_OUT)


def needs_no_row(last: Mapping[str, Value] | None, why: str) -> bool:
    """Whether the row that a cell has already will do, now that it is skipped.

    Rows are not added for the same reason again; what is left of a budget is no other reason. And a
    result that was to be had again stays what it is.

    Args:
        last: the row that counts for the cell; None if it has none.
        why: the message of the row that it would get.
    """
    if last is None:
        return False
    if why.startswith(_LEFT_OUT):
        return was_left_out(last) or last.get("status") not in RESUMED
    return (last.get("status"), last.get("message")) == ("skipped", why)


def that_fit(seconds: float, predicted: Iterable[float | None]) -> list[bool | None]:
    """Which cells fit into a budget if they take what is predicted, s, one after the other.

    None of one whose time is not predicted.
    """
    found: list[bool | None] = []
    for cell_s in predicted:
        fits = None if cell_s is None else cell_s <= seconds
        seconds -= cell_s if fits and cell_s is not None else 0.0
        found.append(fits)
    return found
