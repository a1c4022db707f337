"""Two sets of rows, BASE and NEW, compared setting by setting and over all settings."""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.analysis import costpairs, matching
from bench.analysis.costpairs import alternated, machines_of, ratio_intervals, runs_of, versions_of
from bench.analysis.costs import parse_margin
from bench.analysis.matching import Match, Side, distinct_labels, text_of
from bench.analysis.scorepairs import ScorePair, mean_of_pairs, score_pairs
from bench.analysis.setting import Setting, place_of_run
from bench.common.files import read_tables
from bench.common.messages import some_of
from bench.plan.metrics import Metric
from bench.plan.rows import Row
from bench.results.outcomes import ValuesOf
from bench.stats.comparing import FAMILY, Estimates, mean_of_settings, needed_repeats, nominal_level
from bench.stats.intervals import Floats, Interval, Ints, quantile

Kind = Literal["count", "memory", "time", "score"]


class Verdict(StrEnum):  # in the order of tables
    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    UNDECIDED = "too few repeats"
    SMALL = "below the minimum effect"
    SAME = "no measurable difference"
    NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Limits:
    """Minimum effects: ratios − 1 of costs, and a margin of scores, such as `0.5pt` or `1%`."""

    slowdown: float = 0.05
    memory: float = 0.02
    work: float = 0.02
    score_drop: str = "0.5pt"

    def ratio(self, kind: Kind) -> float:
        return {"count": self.work, "memory": self.memory, "time": self.slowdown}[kind]


@dataclass(frozen=True)
class Measure:
    """A column that is compared: a score by its difference, all others by their ratio. With
    `exact`, equal runs have equal values, so that a value is its own interval."""

    column: str
    label: str
    kind: Kind
    exact: bool = False


@dataclass(frozen=True)
class Compared:
    """A measure of both sides, compared. Its interval is simultaneous with all others. `needed`
    would decide it four times out of five if nothing differs or, close to the limit, if the
    estimate is right."""

    measure: Measure
    interval: Interval | None  # NEW / BASE, of scores NEW − BASE; None: not compared
    verdict: Verdict
    limit: float | None = None  # the ratio − 1, or the difference of scores, that is tolerated
    gates: bool = False  # whether a regression here makes the exit status 1
    why: str = ""  # why it is not compared, does not gate or is undecided
    runs: tuple[int, int] = (0, 0)  # of BASE and NEW; of scores, seeds
    needed: int | None = None  # runs or seeds of each side; None: decided, or no number would
    significant: bool = False  # whether the interval excludes no change
    may_be_worse: bool = True  # whether a change for the worse beyond the limit is not excluded
    base: float | None = None  # the mean of BASE; None over all settings
    new: float | None = None


@dataclass(frozen=True, eq=False)
class Pair:
    """A setting of BASE and the setting of NEW that matches it, on one machine; `failing` says how
    cells of NEW end that were ok in BASE, `passing` the same the other way round (empty: none)."""

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


class Family(NamedTuple):
    """The numbers of a comparison's intervals, which hold at once, and their two-sided levels."""

    number: int  # of single settings
    level: float
    measures: int  # over all settings
    overall_level: float
    looks: int = 1
    probability: float = 1 - FAMILY


Result = tuple[Pair | None, Compared]  # a result of a pair, or over all settings


@dataclass(frozen=True, eq=False)
class Comparison:
    pairs: tuple[Pair, ...]
    overall: tuple[Compared, ...]  # by measure: geometric mean of ratios, mean difference of scores
    unmatched: tuple[Unmatched, ...]
    differs: tuple[tuple[str, str, str], ...]  # conditions, with the values of both sides
    machines: costpairs.Machines | None  # None: a common machine, or no common way of measuring
    family: Family

    @cached_property
    def results(self) -> list[Result]:
        """All results: those over all settings, without a pair, and those of each pair."""
        by_setting = ((pair, one) for pair in self.pairs for one in pair.compared)
        return [*((None, one) for one in self.overall), *by_setting]

    def having(self, verdict: Verdict) -> list[Result]:
        return [result for result in self.results if result[1].verdict is verdict]

    @property
    def regressions(self) -> list[Result]:
        return [result for result in self.having(Verdict.REGRESSION) if result[1].gates]

    @property
    def failing(self) -> list[Pair]:
        return [pair for pair in self.pairs if pair.failing]

    @property
    def passing(self) -> list[Pair]:
        return [pair for pair in self.pairs if pair.passing]


MEASURES: Final = tuple(
    Measure(column, **about) for column, about in read_tables(__file__, "measures.toml").items()
)
SCORE: Final = next(measure for measure in MEASURES if measure.kind == "score")
NOT_ALTERNATED: Final = "not measured in alternation: bench.compare --run does that"
_OTHER_BATCHES: Final = "no seed in common, and the largest batch is counted"
_UNPAIRED: Final = "no seed in common: the same seeds of both sides would decide it sooner"
_FAILED: Final = ("oom", "crashed", "timeout", "invalid")


@dataclass(frozen=True, eq=False)
class CostMeasure:
    """A cost of K matched settings. Times gate where these were measured in alternation: otherwise
    they have the drift between sessions as well."""

    measure: Measure
    estimates: Estimates  # of log ratios
    ranges: tuple[Floats, Floats] | None  # of the pairs of an exact cost
    paired: NDArray[np.bool_]  # by setting, whether it has runs in pairs
    gates: NDArray[np.bool_]  # by setting, whether a regression counts
    shared: Ints  # the setting of BASE of each, as a number
    why: list[str | None]  # why not compared; empty: it is; None: it does not apply
    runs: list[tuple[int, int]]
    means: list[tuple[float, float]]
    limit: float

    @property
    def known(self) -> NDArray[np.bool_]:
        """By setting, whether it is compared."""
        return np.array([why == "" for why in self.why], dtype=bool)

    def results(self, level: float) -> list[Compared | None]:
        """The result of each setting; None where the cost does not apply."""
        estimates, limit = self.estimates, math.log1p(self.limit)
        drift = quantile(level, math.inf) * math.sqrt(2) * costpairs.BETWEEN_PROCESSES
        low, high = self.ranges or estimates.ends(level, np.where(self.gates, 0.0, drift))
        needed = needed_repeats(estimates, limit, level)
        results: list[Compared | None] = []
        for i, interval in enumerate(ratio_intervals(estimates.value, low, high)):
            base, new = (None if math.isnan(mean) else mean for mean in self.means[i])
            one = Compared(
                self.measure, None, Verdict.NOT_COMPARED, self.limit, why=self.why[i] or "",
                runs=self.runs[i], base=base, new=new,
            )  # fmt: skip
            if self.why[i] == "" and interval is not None:
                verdict, significant = verdict_of(low[i], high[i], limit)
                gates, paired = bool(self.gates[i]), bool(self.paired[i])
                is_open = gates and verdict is Verdict.UNDECIDED
                one = replace(
                    one, interval=interval, verdict=verdict, gates=gates, significant=significant,
                    why=_UNPAIRED if is_open and not paired else "" if gates else NOT_ALTERNATED,
                    needed=needed[i] if is_open and paired and not self.measure.exact else None,
                    may_be_worse=bool(high[i] > limit),
                )  # fmt: skip
            results.append(None if self.why[i] is None else one)
        return results

    def overall(self, level: float) -> Compared:
        """The result over all settings that are compared; of times, of those that gate if any."""
        every = known = self.known
        if (known & self.gates).any():
            known = known & self.gates
        low, high = self.ranges or (None, None)
        base, new = np.array(self.runs)[known].sum(axis=0).tolist()
        [one] = replace(
            self,
            estimates=mean_of_settings(self.estimates.part(known), self.shared[known]),
            ranges=None if low is None or high is None
            else (low[known].mean(keepdims=True), high[known].mean(keepdims=True)),
            paired=np.array([self.paired[known].all()]),
            gates=np.array([self.gates[known].all()]),
            why=[""], runs=[(base, new)], means=[(math.nan, math.nan)],
        ).results(level)  # fmt: skip
        assert one is not None  # noqa: S101 (it applies)
        if known.sum() < every.sum():
            part = f"over the {known.sum():,} of {every.sum():,} settings measured in alternation"
            one = replace(one, why=part)
        return one


def compare(
    base: Sequence[Row],
    new: Sequence[Row],
    limits: Limits,
    *,
    named: Collection[str] = (),
    values_of: tuple[ValuesOf, ValuesOf],
    looks: int = 1,
) -> Comparison:
    """Two sets of rows, compared through the settings that they share, which may differ in the
    columns that filters name, `looks` times at most while rows are being added. InputError if the
    limit of scores is none, or not one of the metric."""
    matched = matching.matching(base, new, named, values_of)
    matches = matched.matches
    labels = distinct_labels([(match.label, match.new.rows[0]) for match in matches])
    costs = {cost.measure: cost for cost in costs_of(matches, limits)}
    scores = score_pairs(matches)
    varying = [cost for cost in costs.values() if not cost.measure.exact and cost.known.any()]
    differences = [pair for pair in scores if isinstance(pair, ScorePair)]
    has_seeds = any(not pair.is_single for pair in differences)
    number = sum(int(cost.known.sum()) for cost in varying) + len(differences)
    measures = len(varying) + has_seeds
    share = FAMILY / 2 if len(matches) > 1 else FAMILY
    level = nominal_level(share / max(number, 1), looks)
    overall_level = nominal_level(FAMILY / 2 / max(measures, 1), looks)

    results: list[list[Compared]] = [[] for _ in matches]
    overall = []
    for measure in MEASURES:
        ones: Sequence[Compared | None] = ()
        if measure is SCORE:
            ones = [_score_result(pair, limits, level) for pair in scores]
            if len(matches) > 1 and has_seeds:
                overall.append(_overall_score(matches, scores, limits, overall_level))
        elif cost := costs.get(measure):
            ones = cost.results(level)
            if cost.known.sum() > 1:
                overall.append(cost.overall(overall_level))
        for result, one in zip(results, ones, strict=False):
            result += [one] if one else []
    pairs = tuple(
        Pair(
            label, match.base, match.new,
            "" if match.machine is None else matching.machine_name(match.machine), tuple(result),
            failing=_failing(match.base, match.new),
            passing=_failing(match.new, match.base, now=True),
        )
        for match, label, result in zip(matches, labels, results, strict=True)
    )  # fmt: skip
    unmatched_labels = distinct_labels([(s.label, s.rows[0]) for _, s, _ in matched.unmatched])
    unmatched = tuple(
        Unmatched(side, label, why, len(setting.rows))
        for (side, setting, why), label in zip(matched.unmatched, unmatched_labels, strict=True)
    )
    family = Family(number, level, measures if overall else 0, overall_level, looks)
    differs = _differs(matched.rows, named, matches)
    machines = machines_of(matches, labels)
    return Comparison(pairs, tuple(overall), unmatched, differs, machines, family)


def costs_of(matches: Sequence[Match], limits: Limits) -> list[CostMeasure]:
    """The costs that were measured on either side of any match."""
    measures = [measure for measure in MEASURES if measure is not SCORE]
    runs = runs_of(matches, tuple(measure.column for measure in measures))
    reasons = [_why_not(match) for match in matches]
    on_gpu = [
        any(matching.machine_of(s.rows[0])[0] != "cpu" for s in match.sides) for match in matches
    ]
    alternate = np.array([alternated(match.base, match.new) for match in matches], dtype=bool)
    costs = []
    for measure in measures:
        base, new = runs.means(measure.column)
        numbers = _pairs(base.number, new.number)
        paired, unpaired = runs.has_pair(measure.column), _OTHER_BATCHES if measure.exact else ""
        why: list[str | None] = [
            reason or matching.not_measured(*have) or ("" if has_pair else unpaired)
            if any(have) and not (gpu and measure.column == "peak_rss_mib")
            else None
            for gpu, reason, have, has_pair in zip(on_gpu, reasons, numbers, paired, strict=True)
        ]
        if all(one is None for one in why):
            continue
        known = np.array([one == "" for one in why], dtype=bool)
        costs.append(CostMeasure(
            measure, runs.log_ratios(measure.column, known),
            runs.ranges(measure.column) if measure.exact else None, paired,
            alternate if measure.kind == "time" else np.ones_like(alternate), runs.shared, why,
            numbers, _pairs(base.value, new.value), limits.ratio(measure.kind),
        ))  # fmt: skip
    return costs


def _pairs(base: NDArray[Any], new: NDArray[Any]) -> list[tuple[Any, Any]]:
    return list(zip(base.tolist(), new.tolist(), strict=True))


def _why_not(match: Match) -> str:
    """Why no cost of a match can be compared; empty: they can."""
    if match.machine is None:
        sharing = [{row.sharing for row in setting.ok} for setting in match.sides]
        alike = sharing[0] & sharing[1] or not all(sharing)
        return "measured on other machines" if alike else "one measured while other cells ran"
    versions = sorted(versions_of(match))
    if len(versions) > 1:
        return f"measured in other ways: measurement_version {' and '.join(map(str, versions))}"
    return ""


def verdict_of(low: float, high: float, limit: float) -> tuple[Verdict, bool]:
    """The verdict of an interval around 0, no change, in which more is worse, by the minimum
    effect, a positive difference; and whether it excludes no change."""
    significant = not low <= 0 <= high
    if low > limit:
        return Verdict.REGRESSION, significant
    if high < -limit:
        return Verdict.IMPROVEMENT, significant
    if -limit <= low and high <= limit:
        return Verdict.SMALL if significant else Verdict.SAME, significant
    return Verdict.UNDECIDED, significant


def _score_result(pair: ScorePair | str, limits: Limits, level: float) -> Compared:
    if isinstance(pair, str):
        return Compared(SCORE, None, Verdict.NOT_COMPARED, why=pair)
    limit = score_limit(limits.score_drop, pair.metric, pair.base)
    interval = pair.interval(level)
    low, high = sorted(-pair.metric.gain(end) for end in interval.ends() or ())
    verdict, significant = verdict_of(low, high, limit)
    why = ""
    if pair.is_single:
        verdict = Verdict.UNDECIDED
        why = "one training each; several seeds on both sides are needed"
    if not math.isfinite(high - low):
        interval = Interval(pair.value)
    needed = pair.needed(limit, level) if verdict is Verdict.UNDECIDED else None
    if verdict is Verdict.UNDECIDED and needed is None:
        why = "no number of seeds shows so small a difference with as many dev examples"
    return Compared(
        SCORE, interval, verdict, limit, not pair.is_single, why, pair.seeds, needed,
        significant, pair.is_single or high > limit, pair.base, pair.new,
    )  # fmt: skip


def score_limit(text: str, metric: Metric, base: float) -> float:
    """The limit of a drop in score, as a positive difference; points of a metric in the unit of the
    labels are percent of BASE's score. Raises InputError if the text is no such limit."""
    if not metric.bounded and text.strip().endswith("pt"):
        text = text.strip().removesuffix("pt") + "%"
    return parse_margin(text, metric, base, "--max-score-drop")


def _overall_score(
    matches: Sequence[Match], scores: Sequence[ScorePair | str], limits: Limits, level: float
) -> Compared:
    several = [
        (match.base.rows[0].data_digest, pair)
        for match, pair in zip(matches, scores, strict=True)
        if isinstance(pair, ScorePair) and len(pair.differences) > 1
    ]
    if not several:
        return _score_result("no setting has two seeds in common", limits, level)
    mean = _score_result(mean_of_pairs(several), limits, level)
    return replace(mean, base=None, new=None)


def _failing(before: Setting, after: Setting, now: bool = False) -> str:
    """How cells of one setting fail that were ok in another, or with `now`, how those of `after`
    failed that are ok in `before`; empty: none does."""
    ok = {place_of_run(row) for row in before.ok}
    others = {place_of_run(row) for row in before.rows if row.status in _FAILED}
    ended = [row for row in after.rows if row.is_ok or row.status in _FAILED]
    failed = [
        row for row in ended if not row.is_ok and (place_of_run(row) in ok or (ok and not others))
    ]
    texts = []
    if failed:
        by_status = Counter(str(row.status) for row in failed)
        counts = " and ".join(f"{status} in {number}" for status, number in by_status.items())
        counts += f" of {len(ended)} run{'s' if len(ended) != 1 else ''}"
        message = next((row.message for row in failed if row.message), "")
        texts.append(f"{counts}, then ok" if now else f"ok, then {counts}")
        texts[-1] += f": {message}" if message else ""
    common = before.scores.keys() & after.scores.keys()
    shared = [
        replace(setting, rows=tuple(row for row in setting.rows if row.seed in common))
        for setting in (before, after)
    ]
    if common and not after.learned and shared[0].learned and not shared[1].learned:
        texts.append("not_learned, then learned" if now else "learned, then flagged not_learned")
    return "; ".join(texts)


_CONDITIONS: Final = (
    "device", "device_name", "machine", "threads", "sharing", "executor", "torch_version",
    "cuda_version", "environment", "measurement_version", "code_version",
)  # fmt: skip
_MOST_VALUES: Final = 4


def _differs(
    rows: tuple[Sequence[Row], Sequence[Row]], names: Collection[str], matches: Sequence[Match]
) -> tuple[tuple[str, str, str], ...]:
    """Conditions, and columns that filters name, with values that differ between the sides. The
    version of the code also if it differs in pairs of runs, although both sides have several."""
    versions = [
        [{place_of_run(row): row.code_version for row in setting.ok} for setting in match.sides]
        for match in matches
    ]
    is_mixed = any(new.get(run, v) != v for base, new in versions for run, v in base.items())
    columns = [*(n for n in names if n in Row.__dataclass_fields__ and n not in _CONDITIONS),
               *_CONDITIONS]  # fmt: skip
    result = []
    for name in columns:
        sides = [list(dict.fromkeys(row[name] for row in side)) for side in rows]
        if set(sides[0]) != set(sides[1]) or (is_mixed and name == "code_version"):
            base, new = (some_of([*map(text_of, side)], _MOST_VALUES) for side in sides)
            result.append((name, base, new))
    return tuple(result)
