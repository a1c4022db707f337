"""Predictions of cells from counts and the rows that have run so far, by two linear models with
non-negative coefficients, fitted to few measurements and a prior.

Memory: a worker's peak above its imports is the sum of what stays in memory (weights, the
optimizer's state), of what comes and goes, which takes more than its size in an allocator on the
host, and of a constant: libraries that load when first used, and Python's own objects.

Time: a constant for the start, plus a little for each operator, product and byte moved. Products
and bytes have rates by the type that they are computed in.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import fmean, median
from typing import Final

import numpy as np

from bench.analysis.groups import group_key
from bench.analysis.setting import number
from bench.forecast.costs import Load, Totals, Variant
from bench.plan.cell import ON
from bench.plan.rows import Row
from bench.stats.steptimes import STEPS_ENOUGH

REPLAYED_STEPS: Final = 24  # the fewest steps that are run to time a short training after its end
MOST_REPLAYED_STEPS: Final = 52  # the most of these steps, with one pass to warm up
REPLAYED_SHARE: Final = 0.15
"""Share of the training's steps that are run to time it, between these bounds."""
_MOST_ROWS: Final = 1000  # the most rows that a fit is made on; the newest count
_DISTURBED: Final = {"disturbed", "throttled"}
NOISE: Final = 0.03  # the relative error of a measurement that no model explains
WITHIN: Final = 0.1  # the relative error up to which a prediction counts as right

Features = tuple[float, ...]


@dataclass(frozen=True)
class Prior:
    """Expected coefficients before anything is measured, and how far they may be off. With `rates`,
    they are known only up to a common factor, which is fitted as the median of the measurements'
    ratios to the prior."""

    values: tuple[float, ...]
    spread: tuple[float, ...]
    rates: bool = False


def fit(
    design: Sequence[Sequence[float]], measured: Sequence[float], prior: Prior
) -> tuple[float, ...]:
    """Non-negative coefficients of a linear model from the features [n, k] of measurements [n]
    above 0, and a prior of k coefficients, whose values are returned where nothing is measured.

    They minimise the squared relative errors, in units of `NOISE`, plus the squared distances from
    the prior, in units of its spread: ridge regression about the prior. So one measurement moves
    them a little, and many determine those that they identify.
    """
    if not len(measured):
        return prior.values
    from scipy.optimize import nnls

    x, y = np.asarray(design, dtype=float), np.asarray(measured, dtype=float)
    values, spread = np.asarray(prior.values), np.asarray(prior.spread)
    if prior.rates:
        factor = np.median(y / (x @ values))
        values, spread = factor * values, factor * spread
    rows = np.concatenate([x / y[:, None] / NOISE, np.diag(1 / spread)])
    targets = np.concatenate([np.full(len(y), 1 / NOISE), values / spread])
    scale = np.linalg.norm(rows, axis=0)  # features differ by many orders of magnitude
    solution, _ = nnls(rows / scale, targets)
    return tuple(float(value) for value in solution / scale)


def apply(coefficients: Sequence[float], features: Sequence[float]) -> float:
    return sum(c * f for c, f in zip(coefficients, features, strict=True))


class Fit:
    """A linear model of one cost, fitted anew as measurements come, with the features of every
    variant that is predicted or learned from."""

    def __init__(self, features: Mapping[Variant, Features], prior: Prior) -> None:
        self.prior = prior
        self._features = features
        self._measured: dict[Variant, list[float]] = {}
        self._coefficients: Sequence[float] | None = None

    def learn(self, variant: Variant, value: float) -> None:
        self._measured.setdefault(variant, []).append(value)
        self._coefficients = None

    def expect(self, prior: Prior) -> None:
        self.prior, self._coefficients = prior, None

    @property
    def points(self) -> dict[Variant, tuple[Features, float]]:
        """Features and mean of the measurements of each variant, in the order of the first ones."""
        return {v: (self._features[v], fmean(values)) for v, values in self._measured.items()}

    @property
    def coefficients(self) -> Sequence[float]:
        if self._coefficients is None:
            self._coefficients = _fit_points([*self.points.values()], self.prior)
        return self._coefficients

    def predict(self, variant: Variant) -> float:
        return apply(self.coefficients, self._features[variant])

    def checks(self) -> dict[str, dict[Variant, float]]:
        """Predictions of every variant by fits that have not seen it, by what they were made on.
        That is nothing but the prior; the variants that ran earlier, as in a first run; all
        variants of other modes and layer sets; and all other variants."""
        points = [*self.points.values()]
        kinds = [(variant.mode, variant.layers) for variant in self._measured]
        ways: dict[str, Callable[[int, int], bool]] = {
            "by the prior": lambda _one, _other: False,
            "as they ran": lambda one, other: other < one,
            "kind left out": lambda one, other: kinds[other] != kinds[one],
            "one left out": lambda one, other: other != one,
        }

        def predicted(one: int, sees: Callable[[int, int], bool]) -> float:
            seen = [point for other, point in enumerate(points) if sees(one, other)]
            return apply(_fit_points(seen, self.prior), points[one][0])

        return {
            way: {variant: predicted(one, sees) for one, variant in enumerate(self._measured)}
            for way, sees in ways.items()
        }


def _fit_points(points: Sequence[tuple[Features, float]], prior: Prior) -> Features:
    return fit([x for x, _ in points], [y for _, y in points], prior)


def errors(predicted: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    """The share of predictions within `WITHIN`, and quantiles of the absolute relative errors."""
    relative = np.abs(np.divide(predicted, measured) - 1)
    return {
        "within_10_percent": float(np.mean(relative <= WITHIN)),
        "error_median": float(np.median(relative)),
        "error_90": float(np.quantile(relative, 0.9)),
        "error_max": float(relative.max()),
    }


def peak_features(variant: Variant, lasting: float, passing: float) -> tuple[float, ...]:
    """Features of the peak above imports, MiB, by the MiB that last and those that pass."""
    half, again = variant.amp != "off", variant.gradient_checkpointing == ON
    return 1.0, float(half), lasting, passing * (not half), passing * half, passing * again


def memory_prior(device: str) -> Prior:
    """The coefficients of `peak_features` to expect before anything has run. On a GPU, the peak is
    the memory of tensors. On the host it is more: an allocator keeps freed memory and can't reuse
    all of it, least of all what gradient checkpointing computes again, and products in half
    precision copy their inputs. The values for the host were measured with minilm, two sizes of
    BERT, tiny models of other architectures and glibc."""
    if device.startswith("cuda"):
        return Prior((0.0, 0.0, 1.0, 1.0, 1.0, 0.0), (30.0, 30.0, 0.2, 0.2, 0.2, 0.2))
    return Prior((75.0, 0.0, 1.2, 1.12, 1.12, 0.5), (100.0, 60.0, 0.3, 0.4, 0.5, 0.4))


def load_features(variant: Variant, load: Load) -> tuple[float, ...]:
    """Features of the time of some work, s."""
    half = variant.amp != "off"
    tensor_cores = half or variant.tf32 == ON
    kernels, gflop, moved = load
    products = gflop * (not tensor_cores), gflop * tensor_cores
    return kernels, *products, moved * (not half), moved * half


def time_features(variant: Variant, totals: Totals) -> tuple[float, ...]:
    """Features of the wall time, s: training, timing it afterwards, and evaluations."""
    timing = replayed_steps(variant, totals.steps) / totals.steps
    loads = (totals.train, totals.timed, totals.evaluate)
    columns = zip(*(load_features(variant, load) for load in loads), strict=True)
    return 1.0, *(train + timing * step + evaluate for train, step, evaluate in columns)


def replayed_steps(variant: Variant, steps: float) -> float:
    """The number of steps that are run after a training of `steps` steps, to time it: 0 after one
    long enough to give step times by itself. One that unfreezes layers does not give them: its
    steps are of several kinds."""
    if steps >= STEPS_ENOUGH and not variant.unfreezes:
        return 0.0
    return min(max(REPLAYED_STEPS, REPLAYED_SHARE * steps), MOST_REPLAYED_STEPS)


def time_prior(device: str, threads: int) -> Prior:
    """Rates of a typical machine, right within a factor of a few."""
    if device.startswith("cuda"):
        values = (8.0, 1e-5, 1 / 15_000, 1 / 100_000, 1 / 500_000, 1 / 500_000)
    else:
        values = (8.0, 5e-6, 1 / (60 * threads), 1 / (90 * threads), 1 / 12_000, 1 / 20_000)
    return Prior(values, values, rates=True)


@dataclass(frozen=True)
class Prediction:
    """Expected costs of a cell, by columns of runs.csv: the whole peak, imports included, the wall
    time, and FLOPs of training by real token."""

    predicted_peak_mib: float
    predicted_s: float
    flops_per_token: float


class Forecast:
    """Predicts costs of cells by counts of every variant that is predicted or learned from, and
    learns from rows; `memory_column` is the one whose value is predicted."""

    def __init__(
        self, totals: Mapping[Variant, Totals], device: str, threads: int, memory_column: str
    ) -> None:
        self.totals = totals
        self.device = device
        self.memory_column = memory_column
        self._hinted = False
        self.memory = Fit(
            {v: peak_features(v, one.lasting_mib, one.passing_mib) for v, one in totals.items()},
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

    def usual_s(self, variant: Variant) -> float | None:
        """The seconds of a cell on a typical machine of one core or GPU, whatever has run on this
        one; None where it could not be counted."""
        totals = self.totals.get(variant)
        if totals is None:
            return None
        return apply(time_prior(self.device, 1).values, time_features(variant, totals))

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
