"""What a run of cells is told beforehand: columns of each cell, and the time that is left."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence

from bench.cell import Cell
from bench.errors import DiskFullError
from bench.locks import Locks, device_locks
from bench.plan import SKIP, Planned
from bench.predict.costs import Variant
from bench.predict.forecast import Forecast
from bench.schema import Row
from bench.signals import Signals

Forecaster = Callable[[Sequence[Planned]], Forecast | None]
"""Makes the forecast of a plan, if one can be made."""


class Outlook:
    """The cells of a run, and the forecast of it, if there is one.

    Those that are skipped for want of rates have a row to be written, but none to be foretold.
    """

    def __init__(self, forecast: Forecast | None, to_run: Sequence[Planned]) -> None:
        self.to_run = to_run
        self._forecast = forecast
        self._left = Counter(Variant.of(item.cell) for item in to_run if item.action != SKIP)

    def begin(self, cell: Cell) -> tuple[float | None, float | None]:
        """Seconds that a cell will take, which begins now, and those after it.

        Nothing is said before there is a basis for it.
        """
        variant = Variant.of(cell)
        if variant not in self._left:
            return None, None
        self._left[variant] -= 1
        if self._forecast is None or self._forecast.basis is None:
            return None, None
        return self._forecast.predict(variant).wall_s, self._forecast.left_s(self._left)

    def columns(self, cell: Cell) -> Row:
        """Columns that are known before a cell has run."""
        if self._forecast is None:
            return {}
        told = self._forecast.predict(Variant.of(cell))
        return {
            "flops_per_token": told.flops_per_token,
            "predicted_s": told.wall_s,
            "predicted_peak_mib": told.peak_mib,
        }

    def learn(self, row: Row) -> None:
        """Take in a cell's row, and fit anew now: not when another may have the device."""
        if self._forecast is not None:
            self._forecast.learn([row])
            self._forecast.left_s(self._left)


def outlook_on(
    planned: Sequence[Planned], forecaster: Forecaster | None, signals: Signals, device: str
) -> Outlook:
    """The outlook on a plan.

    What has to be counted for it is counted in the device's turn: it would disturb another grid's
    times.

    Raises:
        StoppedError: if the user stops it.
    """
    to_run = [item for item in planned if item.action in ("run", SKIP)]
    if forecaster is None:
        return Outlook(None, to_run)

    def waits() -> None:
        sys.stderr.write("waits for another grid\n")

    try:
        with (
            Locks(device_locks(), signals, waits) as devices,
            devices.turn(device),
            signals.raising(),
        ):
            return Outlook(forecaster(planned), to_run)
    except DiskFullError:  # a forecast is not worth an error; who locks for the cells will tell it
        return Outlook(None, to_run)
