"""Scores of matched settings: the difference NEW − BASE, over seeds and dev examples."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from statistics import fmean
from typing import Final

import numpy as np

from bench.analysis.matching import Match, not_measured
from bench.analysis.setting import Setting
from bench.analysis.verdicts import score_spread
from bench.common.grouping import grouped
from bench.plan.metrics import Metric, metric_of
from bench.results.outcomes import Values
from bench.stats import intervals
from bench.stats.comparing import needed_seeds
from bench.stats.intervals import Interval, Spread

FEWEST_SEEDS: Final = 3
"""Seeds of each side that are asked for where one side has one: two hardly show how seeds vary."""


@dataclass(frozen=True, eq=False)
class ScorePair:
    """The difference of two settings' scores. Without a common seed it has `errors`: standard
    errors below and above, and their degrees of freedom. `rounding`, from scores being multiples of
    1 / N, is the least that seeds vary, without which equal differences would be certain."""

    value: float
    metric: Metric
    base: float
    new: float
    seeds: tuple[int, int]  # numbers of those of BASE and NEW
    spread: Spread | None = None  # variances over common seeds and examples; None with `errors`
    errors: tuple[float, float, float] = (math.inf, math.inf, math.inf)  # below, above, freedom
    rounding: float = 0.0  # a variance of the difference
    of_examples: float = 0.0  # of a mean of pairs, its variance that more seeds do not reduce
    is_same: bool = False  # whether both sides are the same trainings, which gave the same
    differences: Mapping[int, float] = field(default_factory=dict)  # by common seed
    values: Mapping[int, Values] = field(default_factory=dict)  # by seed and example, if kept

    @property
    def is_single(self) -> bool:
        """Whether a side has one seed, so that this compares trainings and not settings."""
        return min(self.seeds) < 2

    def interval(self, level: float) -> Interval:
        if self.spread is not None:
            return self.spread.interval(level)
        below, above, freedom = self.errors
        t = float(intervals.quantile(level, freedom))
        return Interval(self.value, self.value - t * below, self.value + t * above)

    def needed(self, limit: float, level: float) -> int | None:
        """The number of seeds of each side whose interval about no difference is within ± limit,
        four times out of five, and more than there are; None: no number, or more than 1,000."""
        if self.is_single:
            return FEWEST_SEEDS
        fewer = min(self.seeds)
        variance = max(self.errors[:2]) ** 2 * fewer
        over = self.spread or Spread(self.value, variance, 0.0, fewer, 1)
        known = self.spread is not None or math.isfinite(variance)
        seeds = needed_seeds(over, limit, level) if known else None
        return seeds and max(seeds, fewer + 1)


def score_pair(base: Setting, new: Setting) -> ScorePair | str:
    """The difference of two settings' scores, or why they can't be compared."""
    if missing := not_measured(base.scores, new.scores):
        return missing
    metrics = [setting.scored[0].dev_metric or "" for setting in (base, new)]
    if metrics[0] != metrics[1]:
        return f"other metrics: {metrics[0]} in BASE, {metrics[1]} in NEW"
    if not (base.learned or new.learned):
        return "flagged not_learned on both sides"
    means = fmean(base.scores.values()), fmean(new.scores.values())
    common = sorted(base.scores.keys() & new.scores.keys())
    differences = {seed: new.scores[seed] - base.scores[seed] for seed in common}
    seeds = len(base.scores), len(new.scores)
    value, metric = means[1] - means[0], metric_of(metrics[0])
    pair = ScorePair(value, metric, *means, seeds, differences=differences)
    # a side of one seed is compared by the examples of that training alone
    over = score_spread(new, base) if len(common) > 1 or (common and min(seeds) == 1) else None
    if over is not None:
        values = {seed: new.values[seed] - base.values[seed] for seed in common}
        pair = replace(pair, value=over.mean, values=values, rounding=1 / (6 * over.examples**2))
    elif len(common) > 1:
        over = over_seeds(list(differences.values()))
        pair = replace(pair, value=over.mean, rounding=_rounding(base))
    alike = {row.cell_id for row in base.scored} & {row.cell_id for row in new.scored}
    is_same = bool(alike) and not any(differences.values())
    if over is not None and is_same and not any(one.any() for one in pair.values.values()):
        return replace(pair, spread=replace(over, of_examples=0.0), is_same=True)
    if over is not None and over.of_seeds is not None:
        over = replace(over, of_seeds=over.of_seeds + pair.rounding)
    if over is not None and over.error()[0]:
        return replace(pair, spread=over)
    freedom = min(s - 1 if s > 1 else math.inf for s in seeds)
    seed = common[0] if common and min(seeds) == 1 else None
    if seed is not None:
        pair, freedom = replace(pair, value=differences[seed]), math.inf
    below_base, above_base = _errors(base, seed)
    below_new, above_new = _errors(new, seed)
    errors = math.hypot(below_new, above_base), math.hypot(above_new, below_base), freedom
    return replace(pair, errors=errors)


def _rounding(setting: Setting) -> float:
    """The variance of a difference of two scores that are multiples of 1 / N, from N, as it follows
    from the interval of a score; 0 where there is none."""
    for row in setting.scored:
        score, low, high = row.dev_score, row.dev_ci_low, row.dev_ci_high
        if score is not None and low is not None and high is not None and 0 < score < 1:
            number = score * (1 - score) * (2 * intervals.NORMAL_975 / max(high - low, 1e-9)) ** 2
            return 1 / (6 * max(number, 1.0) ** 2)
    return 0.0


def score_pairs(matches: Sequence[Match]) -> list[ScorePair | str]:
    """The differences of the scores of matched settings, or why they can't be compared.

    The variance between seeds is pooled over settings on the same data. A pair whose seeds scatter
    significantly more than the rest keeps its own. Pairs of the same trainings, which don't differ
    at all, are no part of the pool. Where several pairs have a setting in common, fewer of their
    degrees of freedom count.
    """
    pairs = [score_pair(match.base, match.new) for match in matches]
    known = {i: pair for i, pair in enumerate(pairs) if isinstance(pair, ScorePair)}
    on_data = grouped(known, lambda i: (matches[i].new.rows[0].data_digest, known[i].metric.label))
    for alike in on_data.values():
        shared = Counter(id(matches[i].base) for i in alike)
        spreads = {i: over for i in alike if (over := known[i].spread) and not known[i].is_same}
        pool = {i: (over, var) for i, over in spreads.items() if (var := over.of_seeds) is not None}
        freedom = np.array([over.seeds - 1 for over, _ in pool.values()])
        squares = freedom * np.array([of_seeds for _, of_seeds in pool.values()])
        total, count = float(squares.sum()), int(freedom.sum())
        counted = float((freedom * [4 / (shared[id(matches[i].base)] + 3) for i in pool]).sum())
        wide = intervals.scatters_more(squares, freedom, total, count)
        for (i, (over, _)), is_wide in zip(pool.items(), wide.tolist(), strict=True):
            if not is_wide:
                spread = replace(over, of_seeds=total / count, pooled=counted)
                pairs[i] = replace(known[i], spread=spread)
    return pairs


def over_seeds(differences: Sequence[float]) -> Spread:
    """The spread of differences over seeds alone, at least two."""
    return Spread(fmean(differences), float(np.var(differences, ddof=1)), 0.0, len(differences), 1)


def _errors(setting: Setting, seed: int | None = None) -> tuple[float, float]:
    """Standard errors of a score, or of a seed's, in both directions, from its 95% interval;
    infinite without."""
    score = setting.estimate("dev_score") if seed is None else setting.score_of_seed(seed)
    ends = score.ends() if score else None
    if score is None or ends is None:
        return math.inf, math.inf
    freedom = len(setting.scores) - 1 if seed is None else 0
    t = float(intervals.quantile(0.05, freedom or math.inf))
    return (score.value - ends[0]) / t, (ends[1] - score.value) / t


def mean_of_pairs(pairs: Sequence[tuple[str, ScorePair]]) -> ScorePair | str:
    """The mean difference over settings, given with the digests of their data, that have at least
    two common seeds; or why there is none. Its error is that of resampling seeds and dev examples,
    which the settings share; these are fixed. Settings on other data are independent."""
    if len({pair.metric for _, pair in pairs}) > 1:
        return "the settings have several metrics"
    parts = []
    for alike in grouped(pairs, itemgetter(0)).values():
        members = [pair for _, pair in alike]
        seeds = sorted(set.intersection(*(set(pair.differences) for pair in members)))
        if len(seeds) < 2:
            return "the settings have no two seeds in common"
        lengths = {len(v) for p in members for s in seeds if (v := p.values.get(s)) is not None}
        if len(lengths) == 1 and all(p.values for p in members):
            mean = sum(np.stack([p.values[s] for s in seeds]) for p in members) / len(members)
            over = intervals.spread(np.asarray(mean))
        else:
            over = over_seeds([fmean(p.differences[s] for p in members) for s in seeds])
        if all(p.is_same for p in members):
            over = replace(over, of_examples=0.0)
        else:
            rounding = sum(p.rounding for p in members) / len(members) ** 2
            over = replace(over, of_seeds=(over.of_seeds or 0.0) + rounding)
        parts.append((len(members), over))
    weights = [number / len(pairs) for number, _ in parts]
    errors, freedoms = zip(*(over.error() for _, over in parts), strict=True)
    kept = [over.of_examples / over.examples for _, over in parts]
    variances = [(w * error) ** 2 for w, error in zip(weights, errors, strict=True)]
    error, freedom = map(float, intervals.satterthwaite(variances, freedoms))
    return ScorePair(
        sum(w * over.mean for w, (_, over) in zip(weights, parts, strict=True)), pairs[0][1].metric,
        fmean(p.base for _, p in pairs), fmean(p.new for _, p in pairs),
        (min(p.seeds[0] for _, p in pairs), min(p.seeds[1] for _, p in pairs)),
        parts[0][1] if len(parts) == 1 else None,
        (error, error, freedom),
        of_examples=sum(w**2 * variance for w, variance in zip(weights, kept, strict=True)),
    )  # fmt: skip
