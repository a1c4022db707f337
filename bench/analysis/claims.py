"""Claims, judged by rows: which are supported, refuted or undecided.

A claim has an estimate on the scale on which it is tested: differences of scores, of which more is
better, or logarithms of ratios. Both directions of all primary claims are tested by Holm, each
direction at half the level, so that with 95% probability none of their verdicts is wrong.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Final

import numpy as np

from bench.analysis.comparison import NOT_ALTERNATED, Limits, costs_of
from bench.analysis.matching import Match, matching
from bench.analysis.scorepairs import ScorePair, mean_of_pairs, score_pair
from bench.analysis.setting import place_of_run
from bench.common.grouping import grouped
from bench.plan.cell import ON
from bench.plan.claimsfile import SCORE, Claim, accepts, load, shown
from bench.plan.rows import RESUMED, Row
from bench.results.outcomes import ValuesOf
from bench.results.rescoring import read_results
from bench.stats.comparing import FAMILY, holm, mean_of_settings
from bench.stats.intervals import POWER_Z, Interval, pooled, quantile

LEVEL: Final = 0.03
"""The nominal error of both directions of all primary claims together. With few trainings sums of
variances have approximate degrees of freedom, and it is up to half more (docs/claims.md)."""
_KNOWN: Final = 1e9  # degrees of freedom that stand for a known variance


class Verdict(StrEnum):
    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Estimate:
    """What the rows of a claim say, with the limit that it is tested against."""

    value: float
    error: float
    freedom: float
    limit: float
    floor: float = 0.0  # the part of the variance that more trainings do not reduce

    def beyond(self, sign: int) -> float:
        """The p-value of being beyond the limit: above it with sign 1, below it with −1."""
        from scipy.special import stdtr

        gap = sign * (self.limit - self.value) / max(self.error, 1e-12)
        return float(stdtr(min(self.freedom, _KNOWN), gap))

    def interval(self, claim: Claim, level: float) -> Interval:
        half = float(quantile(level, self.freedom)) * self.error
        ends = np.array([self.value, self.value - half, self.value + half])
        if claim.column != SCORE:
            ends = np.exp(np.clip(ends, -700, 700))
        return Interval(*ends.tolist())

    def more(self, level: float) -> float | None:
        """How many times the trainings there are would decide four times out of five, if the
        estimate is true; None if no number is known to."""
        reach = float(quantile(level, self.freedom)) + POWER_Z
        need = (max(abs(self.value - self.limit), 1e-12) / reach) ** 2
        return (self.error**2 - self.floor) / (need - self.floor) if need > self.floor else None


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict, and the interval of a difference of scores or of a ratio; None
    without an estimate, whose lack `why` explains."""

    claim: Claim
    verdict: Verdict
    level: float  # two-sided, of the interval
    interval: Interval | None = None
    alone: Verdict = Verdict.UNDECIDED  # by the interval alone
    more: float | None = None  # times the trainings that would decide; None too if no number would
    why: str = ""


def judge(claims: Sequence[Claim], estimates: Sequence[Estimate | str]) -> list[Judged]:
    """Verdicts on claims, each with its estimate or why there is none. Claims that are not primary
    are judged alone."""
    primary = [i for i, claim in enumerate(claims) if claim.primary]
    levels = [LEVEL / len(primary) if claim.primary else FAMILY for claim in claims]
    beyond = {
        sign: np.array([e.beyond(sign) if isinstance(e, Estimate) else 1.0 for e in estimates])
        for sign in (1, -1)
    }
    alone = {sign: values <= np.array(levels) / 2 for sign, values in beyond.items()}
    passed = {sign: values.copy() for sign, values in alone.items()}
    for sign, values in beyond.items():
        passed[sign][primary] = holm(values[primary], LEVEL / 2)

    judged = []
    for i, (claim, estimate, level) in enumerate(zip(claims, estimates, levels, strict=True)):
        wanted = 1 if claim.direction == "at least" else -1
        kinds = {wanted: Verdict.SUPPORTED, -wanted: Verdict.REFUTED}
        verdict, by_interval = (
            next((kind for sign, kind in kinds.items() if tested[sign][i]), Verdict.UNDECIDED)
            for tested in (passed, alone)
        )
        one = Judged(claim, verdict, level, alone=by_interval)
        if isinstance(estimate, str):
            judged.append(replace(one, why=estimate))
            continue
        more = estimate.more(level) if verdict is Verdict.UNDECIDED else None
        judged.append(replace(one, interval=estimate.interval(claim, level), more=more))
    return judged


def judge_file(path: Path, runs: Sequence[Path] = ()) -> list[Judged]:
    """Verdicts on the claims of a file, by the rows that it names, or by others. InputError if a
    file can't be read; one that is not there yet leaves its claims undecided."""
    claims, read = load(path), cache(read_results)

    def evidence(claim: Claim) -> Estimate | str:
        files = tuple(runs) or tuple(claim.files(path.parent))
        if missing := [file.name for file in files if not file.is_file()]:
            return f"{missing[0]} is not there"
        known = read(files, None)
        return estimate(claim, known.rows, known.values_of)

    return judge(claims, [evidence(claim) for claim in claims])


def estimate(claim: Claim, rows: Sequence[Row], values_of: ValuesOf) -> Estimate | str:
    """What rows say on a claim, or why they say nothing yet."""
    rows = [row for row in rows if row.task in claim.tasks and accepts(claim.rows, row)]
    # rounds of a race are matched as trainings on dev are, and never with them
    rows = [row | {"race": None} for row in rows if row.race == claim.rows.get("race")]
    base, new = ([r for r in rows if accepts(terms, r)] for terms in (claim.base, claim.new))
    for terms, side in ((claim.base, base), (claim.new, new)):
        if not side:
            return f"no row has {shown({**claim.rows, **terms})}"
    columns = claim.base.keys() | claim.new.keys()
    names = {c for c in columns if claim.base.get(c) != claim.new.get(c)}
    matched = matching(base, new, names | set(claim.differ), (values_of, values_of))
    by_task = grouped(matched.matches, lambda match: match.base.rows[0].task)
    wanted = math.prod(len(values) for values in claim.rows.values() if isinstance(values, list))
    for task in claim.tasks:
        own = by_task.get(task, [])
        if len(own) != wanted:
            reasons = [w for _, s, w in matched.unmatched if s.rows[0].task == task]
            more = f" ({reasons[0]})" if reasons else ""
            return f"{task}: {len(own)} pairs of settings, not {wanted}{more}"
    every = [match for task in claim.tasks for match in by_task[task]]
    for match in every:
        for setting in match.sides:
            ok = {place_of_run(row) for row in setting.ok}
            ended = {r.status or "" for r in setting.rows if place_of_run(r) not in ok}
            if failed := sorted(ended - {"", *RESUMED}):
                return f"{setting.rows[0].task}: a training of {setting.label} ended {failed[0]}"
    return _of_scores(claim, every) if claim.column == SCORE else _of_costs(claim, every)


def _of_scores(claim: Claim, matches: Sequence[Match]) -> Estimate | str:
    pairs, of_trainings = [], 0.0
    for match in matches:
        first, pair = match.base.rows[0], score_pair(*match.sides)
        if isinstance(pair, str):
            return f"{first.task}: {pair}"
        seeds = pair.differences
        if len(seeds) < claim.pairs:
            return f"{first.task}: {len(seeds)} of {claim.pairs} pairs of trainings are there"
        if claim.rows.get("race") == ON:
            # folds have other examples and trainings, and the variance between them both parts
            fold_of = {row.seed: row.fold or 0 for row in match.base.scored}
            folds = grouped(seeds, fold_of.__getitem__)
            means = {fold: fmean(seeds[seed] for seed in own) for fold, own in folds.items()}
            pair = replace(pair, differences=means, values={})
            # with one training of each fold, what more of them reduce is not known
            if std := pooled([[seeds[seed] for seed in own] for own in folds.values()]):
                of_trainings += std.value**2 / len(seeds) / len(matches) ** 2
        elif len(pair.values) < len(seeds):
            return f"{first.task}: predictions are not kept"
        if claim.margin.endswith("pt") and not pair.metric.bounded:
            return f"{first.task}: {pair.metric.label} has no points; give a share, such as -2%"
        pairs.append((first.data_digest, pair))
    estimate = over_tasks(claim, pairs)
    if isinstance(estimate, str) or claim.rows.get("race") != ON:
        return estimate
    return replace(estimate, floor=max(estimate.error**2 - of_trainings, 0.0))


def over_tasks(claim: Claim, pairs: Sequence[tuple[str, ScorePair]]) -> Estimate | str:
    """The mean over tasks, whose metrics count alike, each with its own variance; pairs are given
    with the digests of their data."""
    metric = pairs[0][1].metric
    if all(pair.metric.bounded and pair.metric.higher_is_better for _, pair in pairs):
        pairs = [(digest, replace(pair, metric=metric)) for digest, pair in pairs]
    mean = mean_of_pairs(pairs)
    if isinstance(mean, str):
        return mean
    error, _, freedom = mean.errors
    if mean.spread is not None:
        error, freedom = mean.spread.error()
    limit = claim.limit / 100 * (abs(mean.base) if claim.margin.endswith("%") else 1.0)
    return Estimate(metric.gain(mean.value), error, freedom, limit, mean.of_examples)


def _of_costs(claim: Claim, matches: Sequence[Match]) -> Estimate | str:
    cost = next((c for c in costs_of(matches, Limits()) if c.measure.column == claim.column), None)
    if cost is None:
        return f"{claim.column} was not measured"
    for i, number in enumerate(cost.estimates.number):
        few = f"{number} of {claim.pairs} pairs of runs are there" if number < claim.pairs else ""
        if reason := cost.why[i] or ("" if cost.gates[i] else NOT_ALTERNATED) or few:
            return f"{matches[i].base.rows[0].task}: {reason}"
    mean = mean_of_settings(cost.estimates, cost.shared)
    limit = math.log(claim.limit)
    return Estimate(float(mean.value[0]), float(mean.error[0]), float(mean.freedom[0]), limit)
