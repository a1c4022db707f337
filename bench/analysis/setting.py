"""The settings of a group: rows by the points of the grid, over their seeds, folds and repeats."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from math import log
from operator import attrgetter
from statistics import fmean
from typing import Final

import numpy as np

from adapters import methods
from adapters.methods import mode_label
from adapters.names import place
from bench.common.grouping import grouped
from bench.plan.cell import ABOUT, ALWAYS, Value, named
from bench.plan.columns import VALUES
from bench.plan.metrics import ROW_METRICS
from bench.plan.rows import Row
from bench.results.outcomes import Values, ValuesOf, no_values
from bench.results.scores import score_of, within_bounds
from bench.stats.intervals import Interval, Std, mean_of, mean_t, pooled, scattered

Run = tuple[int, int, int, str]
"""A run of a setting: seed, fold (0 without folds), repeat, and version of the code."""
SeedFold = tuple[int, int]  # the seed and the fold of a run

_ENDS: Final = {
    "dev_score": ("dev_ci_low", "dev_ci_high"),
    "step_ms_median": ("step_ms_ci_low", "step_ms_ci_high"),
    "ms_per_1k_tokens": ("ms_per_1k_tokens_ci_low", "ms_per_1k_tokens_ci_high"),
}
_SCORE: Final = "dev_score"
_TIMES: Final = _ENDS.keys() - {_SCORE}

OPTIONS: Final = named(lambda about: about.compared == "follows" and about.before != ALWAYS)
"""Options of a method or of its rates, which a label names unless they have their usual value."""
FROM_MODE: Final = (
    *OPTIONS,
    *(name for name in named(lambda about: about.compared == "follows") if name not in OPTIONS),
    "scale",
)
"""Settings that follow from the mode."""
FROZEN: Final = "frozen_dtype"
"""A column in which the settings of a group may differ, like the axes."""
_AXES: Final = tuple(
    n for n in named(lambda about: about.compared == "axis") if n not in ("seed", "fold")
)

point: Final[Callable[[Row], tuple[Value, ...]]] = attrgetter(*_AXES, FROZEN, *FROM_MODE)
"""The values that identify a setting within a group."""


def number(value: Value) -> float | None:
    """A value as a float, or None if it is empty or no number."""
    return float(value) if isinstance(value, int | float) else None


def between_processes(settings: Iterable[Iterable[Row]], column: str) -> Std | None:
    """The std of a column's logarithms between processes that do the same work, from the rows of
    each setting; None where nothing measures it.

    For times these are the runs of a setting, of whatever seed: what varies is the process. Other
    costs depend on the seed, so that they are the runs of a cell: repeats or versions of the code.
    """
    runs: dict[Value, list[float]] = {}
    value_of = attrgetter(column)
    for index, rows in enumerate(settings):
        for row in rows:
            value = number(value_of(row))
            if row.is_ok and value is not None and value > 0:
                key = index if column in _TIMES else row.cell_id
                runs.setdefault(key, []).append(log(value))
    return pooled(runs.values())


@dataclass(frozen=True, eq=False)
class Setting:
    """A point of the grid without its seed and fold, and the rows of its runs of any status. The
    label needs the rate, or the type of frozen weights, where another setting of the group differs
    in nothing else."""

    mode: str
    rank: int | None
    layers: str | None
    amp: str
    unfreeze: str | None
    frozen: str | None
    rate: float | None
    rows: tuple[Row, ...]
    elsewhere: tuple[Row, ...] = ()  # of other machines, for seeds and folds without a score here
    options: tuple[str, ...] = ()  # of its method, not the usual ones, such as `LoRA+ ratio 16`
    tells_rate: bool = False  # whether the label needs the rate
    tells_frozen: bool = False  # whether the label needs the type of frozen weights
    values_of: ValuesOf = no_values
    between: Callable[[str], Std | None] = lambda _column: None
    encoder: str = ""  # its name, among the settings of several; else empty

    @property
    def adapted(self) -> bool:
        return self.layers is not None

    @property
    def label(self) -> str:
        """The name in sentences and tables, such as `lora rank 8 on all-lin-only, bf16`, or, of
        several encoders, `minilm with lora rank 8 on all-lin-only, bf16`."""
        return f"{self.encoder} with {self.own_label}" if self.encoder else self.own_label

    @property
    def own_label(self) -> str:
        frozen = f", frozen weights {self.frozen}" if self.tells_frozen and self.frozen else ""
        rank = "" if self.rank is None else f" rank {self.rank}"
        adapter = f"{rank} on {self.layers}" if self.adapted else ""
        rate = f", rate {self.rate:g}" if self.tells_rate and self.rate is not None else ""
        unfreezing = ", unfreezing" if self.unfreezes else ""
        options = "".join(f", {option}" for option in self.options)
        return (
            f"{mode_label(self.mode)}{adapter}{unfreezing}, {self.precision}{options}{rate}{frozen}"
        )

    @property
    def precision(self) -> str:
        """What is computed in: fp32, or AMP's type."""
        return "fp32" if self.amp == "off" else self.amp

    @property
    def unfreezes(self) -> bool:
        return self.unfreeze not in (None, "all")

    @cached_property
    def ok(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.is_ok)

    @cached_property
    def scored(self) -> tuple[Row, ...]:
        """The rows whose scores count, including those of other machines."""
        return (*self.ok, *self.elsewhere)

    @property
    def folds(self) -> int | None:
        return self.rows[0].folds

    @property
    def folds_done(self) -> str:
        """The number of folds with a score of the seed that has the most, such as `3 of 5 folds`;
        empty without folds."""
        if self.folds is None:
            return ""
        done = {(row.seed, row.fold) for row in self.scored if row.has_score}
        by_seed = Counter(seed for seed, _ in done)
        return f"{max(by_seed.values(), default=0)} of {self.folds} folds"

    @cached_property
    def learned(self) -> bool:
        """False if any of its seeds is flagged `not_learned`.

        With folds, a seed counts as flagged if the interval of the score of all folds together
        reaches down to the mean score of the majority class. By another metric than that of the
        flags, and where all seeds lack folds, it is if more than half of its folds are flagged.
        """
        if self.folds is None:
            return not any("not_learned" in row.flag_names for row in self.scored)
        if not self.runs or self.scored[0].dev_metric not in ROW_METRICS:
            by_seed = grouped(self.scored, lambda row: row.seed).values()
            flagged = [["not_learned" in row.flag_names for row in rows] for rows in by_seed]
            return all(2 * sum(flags) <= len(flags) for flags in flagged)
        return all(
            low is not None
            and low > fmean(row.majority_score or 0.0 for run in runs for row in run)
            for seed, runs in self.runs.items()
            for low in [self.score_of_seed(seed).low]
        )

    @cached_property
    def runs(self) -> dict[int, list[tuple[Row, ...]]]:
        """The runs with a score by seed: each a row or, with folds, one for each fold in order. A
        seed that lacks a fold has none. The score of a fold may be undefined, as where one class is
        missing there, if that of all predictions together is not."""
        runs = {}
        for seed, rows in grouped(self.scored, lambda row: row.seed).items():
            scored = [row for row in rows if row.has_score]
            of_seed = _runs(scored, self.folds)
            if not of_seed and len(scored) < len(rows):
                of_seed = [
                    run for run in _runs(rows, self.folds) if self.values_of(run) is not None
                ]
            if of_seed:
                runs[seed] = of_seed
        return runs

    @cached_property
    def values(self) -> dict[int, Values]:
        """The numbers of the dev examples, whose mean is the score, by seed; where stored. Repeats
        of a seed are the same training, and count once, with the mean of their numbers."""
        by_seed = {
            seed: [values for run in runs if (values := self.values_of(run)) is not None]
            for seed, runs in self.runs.items()
        }
        return {
            seed: repeats[0] if len(repeats) == 1 else np.mean(repeats, axis=0)
            for seed, repeats in by_seed.items()
            if len(set(map(len, repeats))) == 1
        }

    @cached_property
    def scores(self) -> dict[int, float]:
        """The dev score by seed, the mean over its repeats. With folds it is that of all
        predictions together, where these are stored for all seeds, or a fold's score is not
        defined; else the mean of the folds' scores."""
        return {seed: self.score_of_seed(seed).value for seed in self.runs}

    @cached_property
    def by_run(self) -> Callable[[str], dict[Run, float]]:
        """Values of a column in the rows that ended ok, by run."""
        return cache(self._by_run)

    def _by_run(self, column: str) -> dict[Run, float]:
        value_of = attrgetter(column)
        values = ((_run(row), number(value_of(row))) for row in self.ok)
        return {run: value for run, value in values if value is not None}

    def places(self, column: str) -> set[SeedFold]:
        """The seeds and folds with a value in a column."""
        return {run[:2] for run in self.by_run(column)}

    def at(self, places: Collection[SeedFold]) -> "Setting":
        """The setting with its runs of some seeds and folds alone, as measured."""
        rows = tuple(row for row in self.rows if place_of_run(row)[:2] in places)
        return replace(self, rows=rows)

    @cached_property
    def estimate(self) -> Callable[[str], Interval | None]:
        """Mean and interval of a column: of scores over seeds, of others over all runs.

        Scores with stored predictions vary by seeds and dev examples, others by seeds alone; the
        score of a single run has the interval in its row. Costs of one seed vary at least as much
        as processes of the group that do the same work. Where no such processes were run, a single
        run's cost has no interval: one process can't show how processes differ.
        """
        return cache(lambda column: self._score() if column == _SCORE else self._cost(column))

    def mean(self, column: str) -> float | None:
        known = self.estimate(column)
        return None if known is None else known.value

    def _score(self) -> Interval | None:
        scores, values = self.scores, self.values
        if not scores:
            return None
        if len(scores) == 1:
            return self.score_of_seed(*scores)
        if values.keys() == scores.keys() and len(set(map(len, values.values()))) == 1:
            return score_of(self.scored[0].dev_metric or "", list(values.values()))
        return within_bounds(self.scored[0].dev_metric or "", mean_t(list(scores.values())))

    def score_of_seed(self, seed: int) -> Interval:
        """The score of one seed: over repeats of the same training, means of values and ends."""
        runs = self.runs[seed]
        is_joined = self.values.keys() == self.runs.keys() or not all(
            row.has_score for run in runs for row in run
        )
        if is_joined and seed in self.values:
            return score_of(runs[0][0].dev_metric or "", [self.values[seed]])
        folds = [[_own_interval(row, _SCORE) for row in run] for run in runs]
        # of several folds, as if they were independent
        return _mean_interval([mean_of(own) if len(own) > 1 else own[0] for own in folds])

    def _cost(self, column: str) -> Interval | None:
        rows = {_run(row): row for row in self.ok if number(row[column]) is not None}
        if not rows:
            return None
        std, runs = self.between(column), [_own_interval(row, column) for row in rows.values()]
        is_one_cell = len({run[:2] for run in rows}) == 1
        if std is not None and is_one_cell and (len(runs) > 1 or column in _TIMES):
            return scattered(runs, std)
        return mean_t([run.value for run in runs])


def place_of_run(row: Row) -> tuple[int, int, int]:
    return row.seed, row.fold or 0, row.repeat


def _run(row: Row) -> Run:
    return *place_of_run(row), row.code_version


def _runs(rows: Sequence[Row], folds: int | None) -> list[tuple[Row, ...]]:
    """The runs of one seed from its rows, without those that lack a fold. Folds belong together by
    repeat and version of the code. Where no such run is whole, as after an update between two
    folds, the last row of each fold makes one."""
    if folds is None:
        return [(row,) for row in rows]
    by_run: dict[tuple[int, str], dict[int | None, Row]] = {}
    for row in rows:
        by_run.setdefault((row.repeat, row.code_version), {})[row.fold] = row
    whole = [run for run in by_run.values() if len(run) == folds]
    last = {fold: row for run in by_run.values() for fold, row in run.items()}
    return [
        tuple(run[fold] for fold in range(folds))
        for run in whole or [last]
        if len(run) == folds and run.keys() == set(range(folds))
    ]


def _own_interval(row: Row, column: str) -> Interval:
    low, high = (number(row[name]) for name in _ENDS[column]) if column in _ENDS else (None, None)
    return Interval(number(row[column]) or 0.0, low, high)


def _mean_interval(intervals: Sequence[Interval]) -> Interval:
    """The means of values and ends over repeats of the same training."""
    ends = [pair for interval in intervals if (pair := interval.ends())]
    value = fmean(interval.value for interval in intervals)
    if len(ends) < len(intervals):
        return Interval(value)
    return Interval(value, *map(fmean, zip(*ends, strict=True)))


def settings_of(
    rows: Sequence[Row], others: Sequence[Sequence[Row]], values_of: ValuesOf
) -> tuple[Setting, ...]:
    """Rows by everything but seed and fold, in the order of modes, layer sets, ranks and AMP;
    `others` are rows of each of the other machines from which scores may be taken."""
    points = grouped(rows, point)
    other_points = [grouped(machine, point) for machine in others]
    axes = len(_AXES)
    but_rates = axes + 1 + len(OPTIONS)
    rates = Counter(key[:but_rates] for key in points)
    frozen_types = Counter(key[:axes] for key in {key[: axes + 1] for key in points})
    between = cache(partial(between_processes, points.values()))
    settings = []
    for key, members in points.items():
        row = members[0]
        options = [(ABOUT[name], row[name]) for name in OPTIONS]
        settings.append(Setting(
            row.mode, row.rank, row.layers, row.amp, row.unfreeze, row.frozen_dtype,
            rate=row.learning_rate or row.learning_rate_head, rows=tuple(members),
            elsewhere=_scored_elsewhere(members, [p.get(key, []) for p in other_points]),
            options=tuple(a.short.format(v) for a, v in options if v not in (None, a.before)),
            tells_rate=rates[key[:but_rates]] > 1, tells_frozen=frozen_types[key[:axes]] > 1,
            values_of=values_of, between=between,
        ))  # fmt: skip
    return tuple(sorted(settings, key=_order))


def _order(setting: Setting) -> tuple[object, ...]:
    return (
        methods.place(setting.mode), place(setting.layers), setting.rank or 0,
        place_in(setting.amp, VALUES["amp"]), setting.unfreezes, setting.rate or 0.0,
        place_in(setting.frozen, VALUES[FROZEN]),
    )  # fmt: skip


def _scored_elsewhere(rows: Sequence[Row], others: Sequence[Sequence[Row]]) -> tuple[Row, ...]:
    """Rows of a setting on each of the other machines, for seeds and folds that have no score here;
    each score is taken from the first machine that has it."""
    scores = {(row.seed, row.fold) for row in rows if _is_scored(row)}
    elsewhere: list[Row] = []
    for machine in others:
        scored = [r for r in machine if _is_scored(r) and (r.seed, r.fold) not in scores]
        scores |= {(row.seed, row.fold) for row in scored}
        elsewhere += scored
    return tuple(elsewhere)


def _is_scored(row: Row) -> bool:
    """Whether a row has a score, or is a fold whose predictions count though it has none."""
    return row.has_score or (row.folds is not None and row.is_ok and row.dev_metric is not None)


def place_in(value: str | None, order: Sequence[str]) -> int:
    """The index of a value in an order of values; −1 where it is not among them."""
    return order.index(value) if value in order else -1
