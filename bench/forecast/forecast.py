"""Predictions of cells from counts and the rows that have run so far."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import median
from typing import Final

from bench.analysis.groups import group_key
from bench.analysis.setting import number
from bench.forecast.costs import Totals, Variant
from bench.forecast.features import (
    load_features,
    memory_features,
    memory_prior,
    time_features,
    time_prior,
)
from bench.forecast.fit import Fit, apply
from bench.plan.rows import Row

_MOST_ROWS: Final = 1000
"""The most rows that a fit is made on; the newest count."""
_DISTURBED: Final = {"disturbed", "throttled"}


@dataclass(frozen=True)
class Prediction:
    """Expected costs of a cell: the whole peak, imports included, and FLOPs of training by real
    token."""

    peak_mib: float
    wall_s: float
    flops_per_token: float


class Forecast:
    """Predicts costs of cells by counts of every variant that is predicted or learned from, and
    learns from rows; `memory_column` is the one whose value is predicted."""

    def __init__(
        self, totals: Mapping[Variant, Totals], device: str, threads: int, memory_column: str
    ) -> None:
        self.totals = totals
        self.memory_column = memory_column
        self._hinted = False
        self.memory = Fit(
            {variant: memory_features(variant, one) for variant, one in totals.items()},
            memory_prior(device),
        )
        self.time = Fit(
            {variant: time_features(variant, one) for variant, one in totals.items()},
            time_prior(device, threads),
        )

    def learn(self, rows: Iterable[Row]) -> None:
        """Learn from comparable rows of any batch size and length. Rows that did not end ok, and
        those of variants without counts, are ignored."""
        for row in rows:
            variant = Variant.of(row)
            if row.status != "ok" or variant not in self.totals:
                continue
            peak, wall = number(row[self.memory_column]), number(row.wall_s)
            above = None if peak is None else peak - self.imports_mib(variant)
            if above is not None and above > 0:
                self.memory.learn(variant, above)
            planned = self.totals[variant].epochs
            stopped = row.early_stopping is not None and (row.epochs_run or 0) < planned
            if wall is not None and not stopped and not _DISTURBED & set(row.flag_names):
                self.time.learn(variant, wall)

    def hint(self, rows: Iterable[Row]) -> None:
        """Estimate the speed of the machine from rows on other data or of other lengths, whose
        times per token give a factor for the rates of the prior. Once there are rows of the same
        group, those decide."""
        ratios, starts = [], []
        prior = self.time.prior
        of_any_length = {v._replace(max_length=0): totals for v, totals in self.totals.items()}
        for row in rows:
            variant = Variant.of(row)
            totals = of_any_length.get(variant._replace(max_length=0))
            ms, start = number(row.ms_per_1k_tokens), number(row.startup_s)
            if row.is_ok and ms and start and totals is not None:
                s = apply(prior.values[1:], load_features(variant, totals.timed))
                ratios.append(ms / (1e6 * s / totals.real_tokens))
                starts.append(start)
        if not ratios:
            return
        values = (median(starts), *(median(ratios) * value for value in prior.values[1:]))
        self.time.expect(replace(prior, values=values, spread=values))
        self._hinted = True

    @property
    def seen(self) -> int:
        return len(self.time.points)

    @property
    def basis(self) -> str | None:
        """A phrase on what times are predicted from; None if on no run of this machine."""
        if self.seen:
            return f"fitted on {self.seen} setting{'s' if self.seen > 1 else ''} that ran here"
        return "from the speed of other runs here" if self._hinted else None

    def imports_mib(self, variant: Variant) -> float:
        """The memory of a worker's imports, as far as the predicted memory includes it."""
        return self.totals[variant].imports_mib if self.memory_column == "peak_rss_mib" else 0.0

    def predict(self, variant: Variant) -> Prediction | None:
        """Expected costs of a cell of a variant; None where it could not be counted."""
        totals = self.totals.get(variant)
        if totals is None:
            return None
        return Prediction(
            self.imports_mib(variant) + self.memory.predict(variant),
            self.time.predict(variant),
            1e9 * totals.train.gflop / totals.real_tokens,
        )


def rows_like(rows: Iterable[Row], likes: Sequence[Row]) -> list[Row]:
    """Rows that are comparable with any of `likes`, of the same conditions and data, in the order
    of `rows`, at most `_MOST_ROWS`."""
    keys = {group_key(like) for like in likes}
    conditions_id, data = likes[0].conditions_id, likes[0].data_digest
    alike = (
        row
        for row in rows
        if row.conditions_id == conditions_id and row.data_digest == data and group_key(row) in keys
    )
    return list(islice(alike, _MOST_ROWS))


def rows_of_model(rows: Iterable[Row], like: Row) -> list[Row]:
    """Rows of the same machine and model on any data, in any batch size; ordered as `rows_like`."""
    names = ("conditions_id", "model_digest", "pooling", "encoders", "compile")
    alike = (row for row in rows if all(row[name] == like[name] for name in names))
    return list(islice(alike, _MOST_ROWS))
