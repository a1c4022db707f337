"""Two sets of rows, BASE and NEW, compared setting by setting and over all settings."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from operator import attrgetter
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from bench.analysis.constraints import parse_margin
from bench.analysis.costpairs import CONSTANTS, alternated, ratio_intervals, runs_of
from bench.analysis.machines import Machines, machines_of, settings, versions_of
from bench.analysis.matching import (
    Match,
    Side,
    distinct_labels,
    machine_name,
    machine_of,
    matching,
    text_of,
)
from bench.analysis.scorepairs import ScorePair, mean_of_pairs, score_pairs
from bench.analysis.setting import BETWEEN_PROCESSES, Setting, place_of_run
from bench.plan.metrics import Metric
from bench.plan.rows import Row
from bench.results.outcomes import ValuesOf
from bench.stats.comparing import (
    Estimates,
    Floats,
    Ints,
    mean_of_settings,
    needed_repeats,
    nominal_level,
    student,
)
from bench.stats.intervals import Interval

Kind = Literal["count", "memory", "time", "score"]


class Verdict(StrEnum):
    """The result of a comparison."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    SMALL = "below the minimum effect"
    SAME = "no measurable difference"
    UNDECIDED = "too few repeats"
    NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Limits:
    """Minimum effects: ratios − 1 of costs, and a margin of scores, such as `0.5pt` or `1%`."""

    slowdown: float = 0.05
    memory: float = 0.02
    work: float = 0.02
    score_drop: str = "0.5pt"


@dataclass(frozen=True)
class Measure:
    """A column that is compared: a score by its difference, all others by their ratio.

    Attributes:
        exact: whether equal runs have equal values, so that a value is its own interval.
    """

    column: str
    label: str
    kind: Kind
    exact: bool = False


@dataclass(frozen=True)
class Compared:
    """A measure of both sides, compared.

    Attributes:
        interval: NEW / BASE, or of scores NEW − BASE, simultaneous with all others; None where it
            is not compared.
        limit: the ratio − 1, or the difference of scores, that is tolerated.
        gates: whether a regression here makes the exit status 1.
        why: the reason why it is not compared, does not gate or is undecided.
        runs: the numbers of runs (of scores: seeds) of BASE and NEW.
        needed: the number of runs, or seeds, of each side that would decide it four times out of
            five; None: it is decided, or no number would.
        significant: whether the interval excludes no change.
        may_be_worse: whether a change for the worse beyond the limit is not excluded.
        base, new: the means of both sides; None over all settings.
    """

    measure: Measure
    interval: Interval | None
    verdict: Verdict
    limit: float | None = None
    gates: bool = False
    why: str = ""
    runs: tuple[int, int] = (0, 0)
    needed: int | None = None
    significant: bool = False
    may_be_worse: bool = True
    base: float | None = None
    new: float | None = None


@dataclass(frozen=True, eq=False)
class Pair:
    """A setting of BASE and the setting of NEW that matches it, on one machine.

    Attributes:
        failing: how cells of NEW end that were ok in BASE; empty: none newly fails.
        passing: the same the other way round.
    """

    label: str
    base: Setting
    new: Setting
    machine: str
    compared: tuple[Compared, ...]
    failing: str = ""
    passing: str = ""


@dataclass(frozen=True)
class Unmatched:
    """A setting that is compared with nothing, and why."""

    side: Side
    label: str
    why: str
    rows: int


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two sets of rows, compared.

    Attributes:
        overall: by measure over all settings: the geometric mean of ratios, or the mean difference
            of scores.
        differs: conditions that differ: column, values in BASE, values in NEW.
        machines: None where both sides ran on a common machine.
        family: a sentence on the number of comparisons and their level.
    """

    pairs: tuple[Pair, ...]
    overall: tuple[Compared, ...]
    unmatched: tuple[Unmatched, ...]
    differs: tuple[tuple[str, str, str], ...]
    machines: Machines | None
    family: str

    @cached_property
    def results(self) -> list[tuple[Pair | None, Compared]]:
        """All results: those over all settings, without a pair, and those of each pair."""
        overall: list[tuple[Pair | None, Compared]] = [(None, one) for one in self.overall]
        return overall + [(pair, one) for pair in self.pairs for one in pair.compared]

    def _with(self, verdict: Verdict) -> list[tuple[Pair | None, Compared]]:
        return [result for result in self.results if result[1].verdict is verdict]

    @property
    def regressions(self) -> list[tuple[Pair | None, Compared]]:
        """Regressions that gate."""
        return [result for result in self._with(Verdict.REGRESSION) if result[1].gates]

    @property
    def improvements(self) -> list[tuple[Pair | None, Compared]]:
        """Improvements."""
        return self._with(Verdict.IMPROVEMENT)

    @property
    def undecided(self) -> list[tuple[Pair | None, Compared]]:
        """Results that more repeats could decide."""
        return self._with(Verdict.UNDECIDED)

    @cached_property
    def is_comparable(self) -> bool:
        """Whether there is anything that is compared."""
        judged = any(one.verdict is not Verdict.NOT_COMPARED for _, one in self.results)
        return judged or bool(self.failing or self.passing or self.machines)

    @property
    def failing(self) -> list[Pair]:
        """Pairs with cells that newly fail."""
        return [pair for pair in self.pairs if pair.failing]

    @property
    def passing(self) -> list[Pair]:
        """Pairs with cells that newly pass."""
        return [pair for pair in self.pairs if pair.passing]


MEASURES: Final = (
    Measure("step_gflop", "FLOPs of a step", "count", exact=True),
    Measure("step_operators", "operators of a step", "count", exact=True),
    Measure("step_moved_mib", "memory traffic of a step", "count", exact=True),
    Measure("activations_mib", "memory kept for backward", "memory", exact=True),
    Measure("peak_rss_mib", "peak memory", "memory"),
    Measure("peak_cuda_allocated_mib", "peak memory", "memory"),
    Measure("dev_score", "dev score", "score"),
    Measure("ms_per_1k_tokens", "time", "time"),
)
"""The measures, in order: those that hardly vary first."""

FAMILY: Final = 0.05
"""The probability that any interval misses its true value."""
_NOT_ALTERNATED: Final = "not measured in alternation: bench.compare --run does that"
_ONE_SEED: Final = "one training each; several seeds on both sides are needed"
_NO_SEEDS: Final = "no number of seeds shows so small a difference with as many dev examples"
_FAILED: Final = ("oom", "crashed", "timeout", "invalid")


@dataclass(frozen=True, eq=False)
class _Cost:
    """A cost of K matched settings: log ratios, of exact ones with the range of their pairs.

    Attributes:
        why: why it is not compared; empty: it is; None: it does not apply.
    """

    measure: Measure
    estimates: Estimates
    ranges: tuple[Floats, Floats] | None
    why: list[str | None]
    runs: list[tuple[int, int]]
    means: list[tuple[float, float]]
    limit: float

    @property
    def known(self) -> NDArray[np.bool_]:
        """By setting, whether it is compared."""
        return np.array([why == "" for why in self.why], dtype=bool)


def compare(
    base: Sequence[Row],
    new: Sequence[Row],
    limits: Limits,
    *,
    named: Collection[str] = (),
    values_of: tuple[ValuesOf, ValuesOf],
    looks: int = 1,
) -> Comparison:
    """Two sets of rows, compared through the settings that they share.

    Args:
        named: columns that filters name, in which matching settings may differ.
        values_of: the numbers of dev examples of BASE and of NEW.
        looks: how often at most the comparison is made while rows are still being added.

    Raises:
        InputError: if the limit of scores is none, or not one of the metric.
    """
    matched = matching(base, new, named, values_of)
    matches = matched.matches
    labels = distinct_labels([(match.label, match.new.rows[0]) for match in matches])
    costs = _costs(matches, limits)
    scores = score_pairs(matches)
    alternate = np.array([alternated(match.base, match.new) for match in matches], dtype=bool)
    varying = [cost for cost in costs if not cost.measure.exact and cost.known.any()]
    known_scores = [p for p in scores if isinstance(p, ScorePair) and not p.is_single]
    number = sum(int(cost.known.sum()) for cost in varying) + len(known_scores)
    measures = len(varying) + bool(known_scores)
    share = FAMILY / 2 if len(matches) > 1 else FAMILY
    level = nominal_level(share / max(number, 1), looks)
    overall_level = nominal_level(FAMILY / 2 / max(measures, 1), looks)

    results: list[list[Compared]] = [[] for _ in matches]
    overall = []
    shared = _places(match.base for match in matches)
    for measure in MEASURES:
        if measure.kind == "score":
            for result, pair in zip(results, scores, strict=True):
                result.append(_score_result(measure, pair, limits, level))
            if len(matches) > 1 and known_scores:
                overall.append(_overall_score(measure, matches, scores, limits, overall_level))
        for cost in costs:
            if cost.measure is measure:
                for result, one in zip(results, _cost_results(cost, alternate, level), strict=True):
                    if one is not None:
                        result.append(one)
                if cost.known.sum() > 1:
                    overall.append(_overall_cost(cost, alternate, shared, overall_level))
    pairs = tuple(
        Pair(
            label, match.base, match.new,
            "" if match.machine is None else machine_name(match.machine), tuple(result),
            failing=_failing(match.base, match.new),
            passing=_failing(match.new, match.base, now=True),
        )
        for match, label, result in zip(matches, labels, results, strict=True)
    )  # fmt: skip
    unmatched_labels = distinct_labels([(s.label, s.rows[0]) for _, s, _ in matched.unmatched])
    return Comparison(
        pairs,
        tuple(overall),
        tuple(
            Unmatched(side, label, why, len(setting.rows))
            for (side, setting, why), label in zip(matched.unmatched, unmatched_labels, strict=True)
        ),
        _differs(matched.rows, named),
        machines_of(matches, labels),
        _family(number, level, measures if overall else 0, overall_level, looks),
    )


def _costs(matches: Sequence[Match], limits: Limits) -> list[_Cost]:
    """The costs that were measured on either side of any match."""
    limit = {"count": limits.work, "memory": limits.memory, "time": limits.slowdown}
    measures = [measure for measure in MEASURES if measure.kind != "score"]
    runs = runs_of(matches, tuple(measure.column for measure in measures))
    reasons = [_why_not(match) for match in matches]
    on_gpu = [any(machine_of(s.rows[0])[0] != "cpu" for s in settings(m)) for m in matches]
    costs = []
    for measure in measures:
        numbers = _pairs(runs.column(measure.column).numbers())
        applies = [
            any(have) and not (gpu and measure.column == "peak_rss_mib")
            for have, gpu in zip(numbers, on_gpu, strict=True)
        ]
        if not any(applies):
            continue
        why = [
            (reason or _missing(have)) if is_measured else None
            for is_measured, reason, have in zip(applies, reasons, numbers, strict=True)
        ]
        column = runs.column(measure.column, np.array([one == "" for one in why], dtype=bool))
        costs.append(
            _Cost(
                measure,
                column.log_ratios(CONSTANTS.get(measure.column, (0.0, 0.0))),
                column.ranges() if measure.exact else None,
                why,
                numbers,
                _pairs(runs.means(measure.column)),
                limit[measure.kind],
            )
        )
    return costs


def _pairs(sides: tuple[NDArray[Any], NDArray[Any]]) -> list[tuple[Any, Any]]:
    return list(zip(*(side.tolist() for side in sides), strict=True))


def _why_not(match: Match) -> str:
    """Why no cost of a match can be compared; empty: they can."""
    if match.machine is None:
        return "measured on other machines"
    versions = sorted(versions_of(match))
    if len(versions) > 1:
        return f"measured in other ways: measurement_version {' and '.join(map(str, versions))}"
    return ""


def _missing(have: tuple[int, int]) -> str:
    """The sides that lack a cost; empty: both have it."""
    missing = [name for name, number in zip(("BASE", "NEW"), have, strict=True) if not number]
    return f"not measured in {' and '.join(missing)}" if missing else ""


def verdict_of(low: float, high: float, limit: float) -> tuple[Verdict, bool]:
    """The verdict of an interval around 0, no change, in which more is worse, and whether it
    excludes no change.

    Args:
        limit: the minimum effect, a positive difference.
    """
    significant = not low <= 0 <= high
    if low > limit:
        return Verdict.REGRESSION, significant
    if high < -limit:
        return Verdict.IMPROVEMENT, significant
    if -limit <= low and high <= limit:
        return Verdict.SMALL if significant else Verdict.SAME, significant
    return Verdict.UNDECIDED, significant


def _cost_results(cost: _Cost, alternate: NDArray[np.bool_], level: float) -> list[Compared | None]:
    """A cost by setting; None where it does not apply."""
    if cost.ranges is None:
        half, gates = _half_widths(cost, cost.estimates, alternate, level)
        ends = cost.estimates.value - half, cost.estimates.value + half
        needed = needed_repeats(cost.estimates, math.log1p(cost.limit), level)
    else:
        ends, gates = cost.ranges, np.ones(len(alternate), dtype=bool)
        needed = [None] * len(alternate)
    ratios = ratio_intervals(cost.estimates.value, *ends)
    results: list[Compared | None] = []
    for i, (why, interval) in enumerate(zip(cost.why, ratios, strict=True)):
        if why is None:
            results.append(None)
            continue
        base, new = (None if math.isnan(mean) else mean for mean in cost.means[i])
        one = Compared(cost.measure, None, Verdict.NOT_COMPARED, cost.limit, why=why,
                       runs=cost.runs[i], base=base, new=new)  # fmt: skip
        if not why and interval is not None:
            one = _judged(one, interval, (ends[0][i], ends[1][i]), bool(gates[i]), needed[i])
        results.append(one)
    return results


def _half_widths(
    cost: _Cost, estimates: Estimates, alternate: NDArray[np.bool_], level: float
) -> tuple[Floats, NDArray[np.bool_]]:
    """Half the intervals of log ratios, and whether they gate.

    Times that were not measured in alternation have the drift between sessions as well, and don't.
    """
    half = estimates.half_width(level)
    if cost.measure.kind != "time":
        return half, np.ones(len(half), dtype=bool)
    drift = student(level, math.inf) * math.sqrt(2) * BETWEEN_PROCESSES
    return np.where(alternate, half, np.hypot(half, drift)), alternate


def _judged(
    one: Compared, interval: Interval, ends: tuple[float, float], gates: bool, needed: int | None
) -> Compared:
    """A cost with its verdict, from both ends of the interval of its log ratio."""
    limit = math.log1p(one.limit or 0.0)
    verdict, significant = verdict_of(*ends, limit)
    return replace(
        one, interval=interval, verdict=verdict, gates=gates, significant=significant,
        may_be_worse=bool(ends[1] > limit),
        why="" if gates else _NOT_ALTERNATED,
        needed=needed if gates and verdict is Verdict.UNDECIDED else None,
    )  # fmt: skip


def _overall_cost(
    cost: _Cost, alternate: NDArray[np.bool_], shared: Ints, level: float
) -> Compared:
    """A cost over all settings that are compared in it."""
    known = cost.known
    some = known & alternate
    if cost.measure.kind == "time" and some.any():
        known = some
    runs = np.array(cost.runs)[known].sum(axis=0).tolist()
    mean = mean_of_settings(cost.estimates.part(known), shared[known])
    if cost.ranges is None:
        half, gates = _half_widths(cost, mean, np.array([alternate[known].all()]), level)
        ends = mean.value - half, mean.value + half
    else:
        ends = tuple(end[known].mean(keepdims=True) for end in cost.ranges)
        gates = np.ones(1, dtype=bool)
    needed = needed_repeats(mean, math.log1p(cost.limit), level, int(known.sum()))[0]
    one = Compared(cost.measure, None, Verdict.NOT_COMPARED, cost.limit, runs=(runs[0], runs[1]))
    for interval in filter(None, ratio_intervals(mean.value, *ends)):
        one = _judged(one, interval, (ends[0][0], ends[1][0]), bool(gates[0]), needed)
    if known.sum() < cost.known.sum():
        part = f"over the {known.sum():,} of {cost.known.sum():,} settings measured in alternation"
        one = replace(one, why=part)
    return one


def _score_result(
    measure: Measure, pair: ScorePair | str, limits: Limits, level: float
) -> Compared:
    if isinstance(pair, str):
        return Compared(measure, None, Verdict.NOT_COMPARED, why=pair)
    limit = score_limit(limits.score_drop, pair.metric, pair.base)
    interval = pair.interval(level)
    low, high = sorted(-pair.metric.gain(end) for end in interval.ends() or ())
    verdict, significant = verdict_of(low, high, limit)
    why = ""
    if pair.is_single:
        verdict, why = Verdict.UNDECIDED, _ONE_SEED
    if not math.isfinite(high - low):
        interval = Interval(pair.value)
    needed = pair.needed(limit, level) if verdict is Verdict.UNDECIDED else None
    if verdict is Verdict.UNDECIDED and needed is None:
        why = _NO_SEEDS
    return Compared(
        measure, interval, verdict, limit, not pair.is_single, why, pair.seeds, needed,
        significant, pair.is_single or high > limit, pair.base, pair.new,
    )  # fmt: skip


def score_limit(text: str, metric: Metric, base: float) -> float:
    """The limit of a drop in score, as a positive difference.

    Points of a metric in the unit of the labels are percent of BASE's score.

    Raises:
        InputError: if the text is no such limit.
    """
    if not metric.bounded and text.strip().endswith("pt"):
        text = text.strip().removesuffix("pt") + "%"
    return parse_margin(text, metric, base, "--max-score-drop")


def _overall_score(
    measure: Measure,
    matches: Sequence[Match],
    scores: Sequence[ScorePair | str],
    limits: Limits,
    level: float,
) -> Compared:
    """The mean difference of scores over the settings with several seeds."""
    several = [
        (match.base.rows[0].data_digest, pair)
        for match, pair in zip(matches, scores, strict=True)
        if isinstance(pair, ScorePair) and len(pair.differences) > 1
    ]
    if not several:
        why = "no setting has two seeds in common"
        return Compared(measure, None, Verdict.NOT_COMPARED, why=why)
    return replace(
        _score_result(measure, mean_of_pairs(several), limits, level), base=None, new=None
    )


def _failing(before: Setting, after: Setting, now: bool = False) -> str:
    """How cells of one setting fail that were ok in another; empty: none does.

    Args:
        now: the other way round, as cells of `after` that failed and are ok in `before`.
    """
    ok = {place_of_run(row) for row in before.ok}
    others = {place_of_run(row) for row in before.rows if row.status in _FAILED}
    ended = [row for row in after.rows if row.is_ok or row.status in _FAILED]
    failed = [
        row
        for row in ended
        if not row.is_ok
        and (place_of_run(row) in ok or (ok and not others and place_of_run(row) not in ok))
    ]
    texts = []
    if failed:
        by_status = Counter(str(row.status) for row in failed)
        counts = " and ".join(f"{status} in {number}" for status, number in by_status.items())
        counts += f" of {len(ended)} run{'s' if len(ended) != 1 else ''}"
        message = next((row.message for row in failed if row.message), "")
        texts.append(f"{counts}, then ok" if now else f"ok, then {counts}")
        texts[-1] += f": {message}" if message else ""
    if before.ok and after.ok and before.learned and not after.learned:
        texts.append("not_learned, then learned" if now else "learned, then flagged not_learned")
    return "; ".join(texts)


def _places(members: Iterable[Setting]) -> Ints:
    """A number for each setting, equal for one and the same."""
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(id(one), len(numbers)) for one in members], dtype=np.int64)


_CONDITIONS: Final = (
    "device", "device_name", "machine", "threads", "torch_version", "cuda_version", "tf32",
    "environment", "measurement_version", "code_version",
)  # fmt: skip
_MOST_VALUES: Final = 4


def _differs(
    rows: tuple[Sequence[Row], Sequence[Row]], names: Collection[str]
) -> tuple[tuple[str, str, str], ...]:
    """Conditions, and columns that filters name, with values that differ between the sides."""
    columns = [*(n for n in names if n in Row.__dataclass_fields__ and n not in _CONDITIONS),
               *_CONDITIONS]  # fmt: skip
    result = []
    for name in columns:
        sides = [list(dict.fromkeys(map(attrgetter(name), side))) for side in rows]
        if set(sides[0]) != set(sides[1]):
            texts = [", ".join(map(text_of, side[:_MOST_VALUES])) for side in sides]
            more = [len(side) - _MOST_VALUES for side in sides]
            texts = [f"{t} and {m} more" if m > 0 else t for t, m in zip(texts, more, strict=True)]
            result.append((name, texts[0], texts[1]))
    return tuple(result)


def _family(number: int, level: float, measures: int, overall_level: float, looks: int) -> str:
    """A sentence on the number of comparisons and their level."""
    if not number:
        return "Nothing was compared whose repeats vary."
    text = (
        f"All intervals hold at once with {1 - FAMILY:.0%} probability (Bonferroni): "
        f"{number:,} of single settings, each at a level of {100 * (1 - level):.4g}%"
    )
    if measures:
        text += f", and {measures} over all settings, each at {100 * (1 - overall_level):.4g}%"
    if looks > 1:
        text += f"; these are the levels of each of {looks} looks (Pocock's boundary)"
    return text + "."
