"""Scores of matched settings: the difference NEW − BASE, over seeds and dev examples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

import numpy as np

from bench.analysis.setting import Setting
from bench.analysis.verdicts import score_spread
from bench.plan.metrics import Metric, metric_of
from bench.results.outcomes import Values
from bench.stats.comparing import WITHIN_Z, quantile
from bench.stats.intervals import Interval, Spread, spread

FEWEST_SEEDS: Final = 3
"""Seeds of each side that are asked for where one side has one: two hardly show how seeds vary."""
_MOST_SEEDS: Final = 1000


@dataclass(frozen=True, eq=False)
class ScorePair:
    """The difference of two settings' scores.

    Attributes:
        below, above: its standard errors in both directions.
        freedom: degrees of freedom of these.
        metric: the dev metric.
        base, new: the scores.
        seeds: the numbers of seeds of BASE and NEW.
        spread: its variances over seeds and examples, where both sides have two common seeds.
        differences: by common seed.
        values: NEW − BASE by common seed for each dev example, where predictions are kept.
    """

    value: float
    below: float
    above: float
    freedom: float
    metric: Metric
    base: float
    new: float
    seeds: tuple[int, int]
    spread: Spread | None
    differences: Mapping[int, float]
    values: Mapping[int, Values]

    @property
    def is_single(self) -> bool:
        """Whether a side has one seed, so that this compares trainings and not settings."""
        return min(self.seeds) < 2

    def interval(self, level: float) -> Interval:
        """The interval at a two-sided level."""
        student = float(quantile(level, self.freedom))
        return Interval(
            self.value, self.value - student * self.below, self.value + student * self.above
        )

    def needed(self, limit: float, level: float) -> int | None:
        """The number of seeds of each side whose interval about no difference is within ± limit,
        four times out of five; None: no number, or more than 1,000."""
        if self.is_single:
            return FEWEST_SEEDS
        for seeds in range(2, _MOST_SEEDS):
            if self.spread is not None:
                error, freedom = replace(self.spread, seeds=seeds).error()
            else:
                error = max(self.below, self.above) * math.sqrt(min(self.seeds) / seeds)
                freedom = 2.0 * (seeds - 1)
            if (float(quantile(level, freedom)) + WITHIN_Z) * error <= limit:
                return max(seeds, min(self.seeds) + 1)
        return None


def score_pair(base: Setting, new: Setting) -> ScorePair | str:
    """The difference of two settings' scores, or why they can't be compared."""
    missing = [n for n, s in (("BASE", base), ("NEW", new)) if not s.scores]
    if missing:
        return f"not measured in {' and '.join(missing)}"
    metrics = [setting.scored[0].dev_metric or "" for setting in (base, new)]
    if metrics[0] != metrics[1]:
        return f"other metrics: {metrics[0]} in BASE, {metrics[1]} in NEW"
    if not (base.learned or new.learned):
        return "flagged not_learned on both sides"
    seeds = len(base.scores), len(new.scores)
    means = fmean(base.scores.values()), fmean(new.scores.values())
    common = sorted(base.scores.keys() & new.scores.keys())
    differences = {seed: new.scores[seed] - base.scores[seed] for seed in common}
    over = None
    values: Mapping[int, Values] = {}
    # one training against one is compared by the examples alone
    if len(common) > 1 or (common and max(seeds) == 1):
        over = score_spread(new, base)
        if over is not None:
            values = {seed: new.values[seed] - base.values[seed] for seed in common}
        elif len(common) > 1:
            over = over_seeds(list(differences.values()))
    if over is not None:
        error, freedom = over.error()
        ends = error, error
        value = over.mean
    else:
        value = means[1] - means[0]
        below_base, above_base = _errors(base)
        below_new, above_new = _errors(new)
        ends = math.hypot(below_new, above_base), math.hypot(above_new, below_base)
        freedom = min(s - 1 if s > 1 else math.inf for s in seeds)
    return ScorePair(
        value, *ends, freedom, metric_of(metrics[0]), *means, seeds,
        over if len(common) > 1 else None, differences, values,
    )  # fmt: skip


def over_seeds(differences: Sequence[float]) -> Spread:
    """The spread of differences over seeds alone, at least two."""
    return Spread(fmean(differences), float(np.var(differences, ddof=1)), 0.0, len(differences), 1)


def _errors(setting: Setting) -> tuple[float, float]:
    """Standard errors of a score in both directions, from its 95% interval; infinite without."""
    score = setting.estimate("dev_score")
    ends = score.ends() if score else None
    if score is None or ends is None:
        return math.inf, math.inf
    freedom = len(setting.scores) - 1 or math.inf
    student = float(quantile(0.05, freedom))
    return (score.value - ends[0]) / student, (ends[1] - score.value) / student


def mean_of_pairs(pairs: Sequence[tuple[str, ScorePair]]) -> ScorePair | str:
    """The mean difference over settings with at least two common seeds, or why there is none.

    Its error is that of resampling seeds and dev examples, which the settings share; these are
    fixed. Settings on other data are independent.

    Args:
        pairs: of settings, with the digest of their data.
    """
    if len({pair.metric for _, pair in pairs}) > 1:
        return "the settings have several metrics"
    by_data: dict[str, list[ScorePair]] = {}
    for data, pair in pairs:
        by_data.setdefault(data, []).append(pair)
    parts = []
    for members in by_data.values():
        seeds = sorted(set.intersection(*(set(pair.differences) for pair in members)))
        if len(seeds) < 2:
            return "the settings have no two seeds in common"
        lengths = {len(v) for p in members for s in seeds if (v := p.values.get(s)) is not None}
        if len(lengths) == 1 and all(p.values for p in members):
            mean = sum(np.stack([p.values[s] for s in seeds]) for p in members) / len(members)
            parts.append((len(members), spread(np.asarray(mean))))
        else:
            means = [fmean(p.differences[s] for p in members) for s in seeds]
            parts.append((len(members), over_seeds(means)))
    weights = [number / len(pairs) for number, _ in parts]
    errors = [over.error() for _, over in parts]
    squares = [(w * error) ** 2 for w, (error, _) in zip(weights, errors, strict=True)]
    lost = sum(s**2 / freedom for s, (_, freedom) in zip(squares, errors, strict=True))
    total = sum(squares)
    first = pairs[0][1]
    return ScorePair(
        sum(w * over.mean for w, (_, over) in zip(weights, parts, strict=True)),
        math.sqrt(total), math.sqrt(total), total**2 / lost if lost else math.inf, first.metric,
        fmean(p.base for _, p in pairs), fmean(p.new for _, p in pairs),
        (min(p.seeds[0] for _, p in pairs), min(p.seeds[1] for _, p in pairs)),
        parts[0][1] if len(parts) == 1 else None, {}, {},
    )  # fmt: skip
