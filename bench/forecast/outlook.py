"""The forecast of a run: columns of each cell before it runs, and the time that is left."""

from collections import Counter
from collections.abc import Callable, Sequence

from bench.forecast.costs import Variant
from bench.forecast.forecast import Forecast
from bench.launch.signals import Signals
from bench.plan.cell import Cell, Columns
from bench.plan.planning import SKIP, Planned
from bench.plan.rows import Row

Forecaster = Callable[[Sequence[Planned], Signals], Forecast | None]
"""Makes the forecast of a plan, or None if none can be made. It may wait for other grids."""


class Outlook:
    """The cells of a run, and its forecast, if there is one.

    Cells that are skipped because the search found no learning rate get a row, but no forecast.
    """

    def __init__(self, forecast: Forecast | None, to_run: Sequence[Planned]) -> None:
        self.to_run = to_run
        self.forecast = forecast
        self._left = Counter(Variant.of(item.cell) for item in to_run if item.action != SKIP)

    def begin(self, cell: Cell) -> tuple[float | None, float | None]:
        """Mark a cell as begun; returns the expected seconds of it and of all later cells."""
        variant = Variant.of(cell)
        if variant in self._left:
            self._left[variant] -= 1
        cell_s = self.time_s(cell)
        if self.forecast is None or cell_s is None:
            return None, None
        return cell_s, self.forecast.left_s(self._left)

    def time_s(self, cell: Cell) -> float | None:
        """The expected seconds of a cell; None where nothing measured here predicts them."""
        variant = Variant.of(cell)
        if self.forecast is None or self.forecast.basis is None or variant not in self._left:
            return None
        return self.forecast.predict(variant).wall_s

    def columns(self, cell: Cell) -> Columns:
        """Columns of the forecast of a cell."""
        if self.forecast is None:
            return {}
        prediction = self.forecast.predict(Variant.of(cell))
        return {
            "flops_per_token": prediction.flops_per_token,
            "predicted_s": prediction.wall_s,
            "predicted_peak_mib": prediction.peak_mib,
        }

    def learn(self, row: Row) -> None:
        """Learn from a cell's row and fit at once, while this grid still has the device."""
        if self.forecast is not None:
            self.forecast.learn([row])
            self.forecast.left_s(self._left)


def outlook_on(
    planned: Sequence[Planned], forecaster: Forecaster | None, signals: Signals
) -> Outlook:
    """The outlook on a plan; without a forecast, and without waiting, where nothing is to run.

    Raises:
        StoppedError: if the user stops it.
    """
    to_run = [item for item in planned if item.action in ("run", SKIP)]
    if forecaster is None or all(item.action == SKIP for item in to_run):
        return Outlook(None, to_run)
    with signals.raising():
        return Outlook(forecaster(planned, signals), to_run)
