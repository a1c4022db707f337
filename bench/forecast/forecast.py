"""Predictions of cells from counts and the rows that have run so far."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import fmean, median
from typing import Final

from bench.analysis.groups import Group, group_key
from bench.analysis.setting import number
from bench.forecast.costs import Costs, Points, Variant
from bench.forecast.features import (
    flops_per_token,
    load_features,
    memory_features,
    memory_prior,
    time_features,
    time_prior,
)
from bench.forecast.fit import Prior, apply, fit
from bench.forecast.totals import Totals, totals_of
from bench.plan.cell import Row

Features = Callable[[Variant, Totals], tuple[float, ...]]

_MOST_ROWS: Final = 1000
"""Rows that a fit is made on: the newest."""
_DISTURBED: Final = {"disturbed", "throttled"}


@dataclass(frozen=True)
class Prediction:
    """What a cell is expected to take. `peak_mib` is the whole peak, imports included."""

    peak_mib: float
    wall_s: float
    flops_per_token: float


class Forecast:
    """Predicts, and learns from what has run.

    Args:
        costs: counts of every variant that will be asked for or learned from.
        device: as in the column of that name.
        threads: likewise.
        memory_column: the column whose value is predicted.

    Attributes:
        totals: what each variant costs by count.
    """

    def __init__(self, costs: Costs, device: str, threads: int, memory_column: str) -> None:
        self.costs = costs
        self.totals = {
            variant: totals_of(costs.shapes[variant.batch_size], counts)
            for variant, counts in costs.counts.items()
        }
        self.memory_column = memory_column
        self.imports_mib = costs.imports_mib.get(memory_column, 0.0)
        self.memory_prior: Prior = memory_prior(device)
        self.time_prior: Prior = time_prior(device, threads)
        self._hinted = False
        self._peaks: dict[Variant, list[float]] = {}
        self._times: dict[Variant, list[float]] = {}
        self._fitted: dict[Variant, Prediction] = {}

    def learn(self, rows: Iterable[Row]) -> None:
        """Take in rows that may be compared, batch sizes aside; those that did not end ok or are
        unknown say nothing."""
        for row in rows:
            variant = Variant.of_row(row)
            if row["status"] != "ok" or variant not in self.totals:
                continue
            peak, wall = number(row[self.memory_column]), number(row["wall_s"])
            if peak is not None and peak > self.imports_mib:
                self._peaks.setdefault(variant, []).append(peak - self.imports_mib)
            if wall is not None and not _DISTURBED & set(str(row["flags"] or "").split()):
                self._times.setdefault(variant, []).append(wall)
            self._fitted = {}

    def hint(self, rows: Iterable[Row]) -> None:
        """Take the speed of the machine from rows on other data, or of other lengths.

        Their times for a token give a factor on the rates of the prior; rows of the same group,
        once there are any, overrule it.
        """
        ratios, starts = [], []
        prior = self.time_prior
        for row in rows:
            totals = self.totals.get(variant := Variant.of_row(row))
            told, start = number(row["ms_per_1k_tokens"]), number(row["startup_s"])
            if row["status"] == "ok" and told and start and totals is not None:
                s = apply(prior.values[1:], load_features(variant, totals.timed))
                ratios.append(told / (1e6 * s / totals.real_tokens))
                starts.append(start)
        if not ratios:
            return
        values = (median(starts), *(median(ratios) * value for value in prior.values[1:]))
        self.time_prior = replace(prior, values=values, spread=values)
        self._hinted = True
        self._fitted = {}

    @property
    def seen(self) -> int:
        """How many variants the times are fitted on."""
        return len(self._times)

    @property
    def basis(self) -> str | None:
        """What the times rest on; None where that is nothing of this machine."""
        if self.seen:
            return f"fitted on {self.seen} setting{'s' if self.seen > 1 else ''} that ran here"
        return "from the speed of other runs here" if self._hinted else None

    def predict(self, variant: Variant) -> Prediction:
        """What a cell of a variant is expected to take."""
        if not self._fitted:
            self._fit()
        return self._fitted[variant]

    def left_s(self, variants: Mapping[Variant, int]) -> float:
        """What so many cells of each variant are expected to take."""
        return sum(n * self.predict(variant).wall_s for variant, n in variants.items() if n)

    def memory_points(self) -> Points:
        """Features and mean peak above imports of each variant that has run."""
        return self._points(self._peaks, memory_features)

    def time_points(self) -> Points:
        """Features and mean wall time of each variant that has run."""
        return self._points(self._times, time_features)

    def _points(self, measured: Mapping[Variant, Sequence[float]], features: Features) -> Points:
        return {
            variant: (features(variant, self.totals[variant]), fmean(values))
            for variant, values in measured.items()
        }

    def _fit(self) -> None:
        memory = _fitted(self.memory_points(), self.memory_prior)
        time = _fitted(self.time_points(), self.time_prior)
        self._fitted = {
            variant: Prediction(
                self.imports_mib + apply(memory, memory_features(variant, totals)),
                apply(time, time_features(variant, totals)),
                flops_per_token(totals),
            )
            for variant, totals in self.totals.items()
        }


def _fitted(points: Points, prior: Prior) -> tuple[float, ...]:
    return fit([x for x, _ in points.values()], [y for _, y in points.values()], prior)


def rows_like(rows: Iterable[Row], likes: Sequence[Row]) -> list[Row]:
    """Rows that may be compared with one of some, the newest first where `rows` has them so.

    Args:
        likes: of the same conditions and data.
    """
    keys = {group_key(like) for like in likes}
    conditions_id, data = likes[0]["conditions_id"], likes[0]["data_digest"]
    found = (
        row
        for row in rows
        if row["conditions_id"] == conditions_id
        and row["data_digest"] == data
        and group_key(row) in keys
    )
    return list(islice(found, _MOST_ROWS))


def memory_column(rows: Iterable[Row]) -> str:
    """The headline of memory of rows that may be compared."""
    return Group(tuple(rows), ()).memory_column


def rows_of_model(rows: Iterable[Row], like: Row) -> list[Row]:
    """Rows of the same machine and model, whatever the data and the batch size, as `rows_like`."""
    names = ("conditions_id", "model_digest", "pooling", "encoders", "compile")
    found = (row for row in rows if all(row[name] == like[name] for name in names))
    return list(islice(found, _MOST_ROWS))
