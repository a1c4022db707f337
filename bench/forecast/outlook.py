"""What a run of cells is told beforehand: columns of each cell, and the time that is left."""

from collections import Counter
from collections.abc import Callable, Sequence

from bench.forecast.costs import Variant
from bench.forecast.forecast import Forecast
from bench.launch.signals import Signals
from bench.plan.cell import Cell, Row
from bench.plan.planning import SKIP, Planned

Forecaster = Callable[[Sequence[Planned], Signals], Forecast | None]
"""Makes the forecast of a plan, if one can be made. It may wait for other grids to count."""


class Outlook:
    """The cells of a run, and the forecast of it, if there is one.

    Those that are skipped for want of rates have a row to be written, but none to be foretold.
    """

    def __init__(self, forecast: Forecast | None, to_run: Sequence[Planned]) -> None:
        self.to_run = to_run
        self.forecast = forecast
        self._left = Counter(Variant.of(item.cell) for item in to_run if item.action != SKIP)

    def begin(self, cell: Cell) -> tuple[float | None, float | None]:
        """Seconds that a cell will take, which begins now, and those after it; None as `time_s`."""
        variant = Variant.of(cell)
        if variant in self._left:
            self._left[variant] -= 1
        cell_s = self.time_s(cell)
        if self.forecast is None or cell_s is None:
            return None, None
        return cell_s, self.forecast.left_s(self._left)

    def time_s(self, cell: Cell) -> float | None:
        """Seconds that a cell is expected to take; None before there is a basis for it."""
        variant = Variant.of(cell)
        if self.forecast is None or self.forecast.basis is None or variant not in self._left:
            return None
        return self.forecast.predict(variant).wall_s

    def columns(self, cell: Cell) -> Row:
        """Columns that are known before a cell has run."""
        if self.forecast is None:
            return {}
        told = self.forecast.predict(Variant.of(cell))
        return {
            "flops_per_token": told.flops_per_token,
            "predicted_s": told.wall_s,
            "predicted_peak_mib": told.peak_mib,
        }

    def learn(self, row: Row) -> None:
        """Take in a cell's row, and fit anew now: not when another may have the device."""
        if self.forecast is not None:
            self.forecast.learn([row])
            self.forecast.left_s(self._left)


def outlook_on(
    planned: Sequence[Planned], forecaster: Forecaster | None, signals: Signals
) -> Outlook:
    """The outlook on a plan. Where nothing is to run, nothing is forecast and nobody waited for.

    Raises:
        StoppedError: if the user stops it.
    """
    to_run = [item for item in planned if item.action in ("run", SKIP)]
    if forecaster is None or all(item.action == SKIP for item in to_run):
        return Outlook(None, to_run)
    with signals.raising():
        return Outlook(forecaster(planned, signals), to_run)
