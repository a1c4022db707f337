"""Comparisons of a group's settings, its best, the Pareto front, effects of rank and AMP."""

from collections.abc import Iterable
from itertools import product
from operator import attrgetter
from statistics import fmean, geometric_mean
from typing import Any, Final, Literal

import numpy as np

from adapters import methods
from adapters.names import in_order
from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.stats import intervals
from bench.stats.intervals import Interval, Spread

Objective = Literal["memory", "time", "score"]
OBJECTIVES: Final[tuple[Objective, ...]] = ("memory", "time", "score")
COSTS: Final[tuple[Objective, ...]] = ("memory", "time")
_FEWEST_REPEATS: Final = 3  # fewest repeats of a single seed and fold that are paired


def column(group: Group, objective: Objective) -> str:
    """The column of runs.csv by which an objective is judged in a group."""
    if objective == "score":
        return "dev_score"
    return group.memory_column if objective == "memory" else group.time_column


def compare(group: Group, objective: Objective, a: Setting, b: Setting) -> Interval | None:
    """a against b: a ratio for memory and time, a difference for the score.

    Scores are paired over dev examples and seeds where predictions are stored, else over the seeds
    that both have, if there are at least two; else the result follows from the intervals of both.
    Costs are paired over the runs that both have (seed, fold, repeat and version of the code), if
    these have at least two seeds or folds, or three repeats of one; else the result follows from
    the intervals of both over the seeds and folds that both have.
    None where one was not measured, and for costs without a common seed and fold.
    """
    name = column(group, objective)
    key = name, id(a), id(b)
    if key not in group.compared:
        group.compared[key] = _compare(name, objective, a, b)
    return group.compared[key]


def _compare(name: str, objective: Objective, a: Setting, b: Setting) -> Interval | None:
    if objective != "score":
        common = a.places(name) & b.places(name)
        a, b = a.at(common), b.at(common)
    one, two = a.estimate(name), b.estimate(name)
    if one is None or two is None or (objective != "score" and min(one.value, two.value) <= 0):
        return None
    if objective == "score":
        paired = score_spread(a, b)
        if paired is not None:
            return paired.interval()
        return intervals.paired_difference(a.scores, b.scores) or intervals.difference(one, two)
    # Two repeats show their spread less well than all repeats of the group do, from which the
    # intervals of both are made. And runs of different versions are no pairs: a shift between
    # versions would be the same in all pairs, and not show in their spread.
    costs, others = a.by_run(name), b.by_run(name)
    runs = costs.keys() & others.keys()
    is_enough = len({run[:2] for run in runs}) > 1 or len(runs) >= _FEWEST_REPEATS
    return (is_enough and intervals.paired_ratio(costs, others)) or intervals.ratio(one, two)


def score_spread(a: Setting, b: Setting) -> Spread | None:
    """The spread of the difference of two settings' scores; None unless predictions are stored for
    all seeds that both have. Both were scored on the same examples, as all rows of a group are."""
    seeds = sorted(a.scores.keys() & b.scores.keys())
    if not a.values.keys() & b.values.keys() >= set(seeds):
        return None
    pairs = [(a.values[seed], b.values[seed]) for seed in seeds]
    if len({len(values) for pair in pairs for values in pair}) != 1:
        return None
    return intervals.spread(np.stack([one - other for one, other in pairs]))


def best_by_score(group: Group) -> Setting | None:
    """The best setting by score, of those that learned; None where scores can't be weighed."""
    if not group.learned:
        return None
    learned = [s for s in group.settings if s.ok and s.learned and s.estimate("dev_score")]
    return max(learned, key=group.gain, default=None)


def better_worse(group: Group, gaps: Iterable[Interval]) -> tuple[int, int]:
    """The numbers of differences of scores that are significantly better, and worse."""
    ends = [sorted(map(group.scoring.gain, pair)) for gap in gaps if (pair := gap.ends())]
    return sum(low > 0 for low, _ in ends), sum(high < 0 for _, high in ends)


def pareto(group: Group, cost: Objective) -> list[Setting]:
    """Settings that no other beats in both cost and score, from cheap to expensive; none where
    scores can't be weighed."""
    if not group.learned:
        return []
    name, best = column(group, cost), float("inf")
    points = [
        (price, -group.gain(setting), setting)
        for setting in group.settings
        if (price := setting.mean(name)) is not None
        if setting.learned and setting.estimate("dev_score")
    ]
    front = []
    for _, lost, setting in sorted(points, key=lambda point: point[:2]):
        if lost < best:
            front.append(setting)
            best = lost
    return front


def rank_effect(group: Group) -> dict[str, float] | None:
    """The effect on score of the highest rank over the lowest: both ranks, `low` and `high`; the
    number of `pairs` that differ in rank alone, of which at least one has learned; how many of them
    are significantly `better` or `worse`; and the `mean` difference. None with scores for fewer
    than two ranks, or where scores can't be weighed."""
    if not group.learned:
        return None
    scored = [s for s in group.settings if s.rank is not None and s.estimate("dev_score")]
    ranks = sorted({s.rank or 0 for s in scored})
    if len(ranks) < 2:
        return None
    low, high = ranks[0], ranks[-1]

    def without_rank(s: Setting) -> tuple[object, ...]:
        rate = s.rate if s.tells_rate else None
        return s.mode, s.layers, s.amp, s.unfreezes, s.options, rate, s.frozen

    twins = {without_rank(s): s for s in scored if s.rank == low}
    gaps = [
        gap
        for s in scored
        if s.rank == high and (twin := twins.get(without_rank(s))) and (s.learned or twin.learned)
        if (gap := compare(group, "score", s, twin))
    ]
    if not gaps:
        return None
    (better, worse), mean = better_worse(group, gaps), fmean(gap.value for gap in gaps)
    of_pairs: dict[str, float] = {"pairs": len(gaps), "better": better, "worse": worse}
    return {"low": low, "high": high, **of_pairs, "mean": mean}


def effects(group: Group, cost: Objective) -> list[dict[str, Any]]:
    """A cost relative to full fine-tuning in fp32 by `mode`, `layers` and `amp`: with `amp_alone`,
    with `adapter_alone`, and with `both`. Each is the geometric mean over the `ranks` that ran with
    AMP and without. `product` is the value of `both` if the two effects were independent."""
    base = group.baseline
    settings = [s for s in group.usual if base and not s.unfreezes and not s.options]
    ratios = {
        (s.mode, s.layers, s.amp, s.rank): ratio.value
        for s in reversed(settings)
        if base and (ratio := compare(group, cost, s, base))
    }
    amps = sorted({s.amp for s in settings} - {"off"})
    layer_sets = in_order(s.layers for s in settings if s.layers is not None)
    ranks = {s.rank for s in settings}
    results = []
    modes = methods.in_order(s.mode for s in settings if methods.has_adapters(s.mode))
    for amp, mode, layers in product(amps, modes, layer_sets):
        alone = ratios.get(("full", None, amp, None))
        pairs = [
            [ratios.get((mode, layers, kind, rank)) for kind in ("off", amp)] for rank in ranks
        ]
        known = [(off, on) for off, on in pairs if off and on]
        if alone is not None and known:
            adapter, both = map(geometric_mean, zip(*known, strict=True))
            kind: dict[str, Any] = {"mode": mode, "layers": layers, "amp": amp, "ranks": len(known)}
            alone_and_both = {"amp_alone": alone, "adapter_alone": adapter, "both": both}
            results.append({**kind, **alone_and_both, "product": alone * adapter})
    return results


def amp_ratios(group: Group, cost: Objective) -> list[tuple[Setting, Interval]]:
    """Each setting that ran with AMP, and its cost relative to the same setting without."""
    without_amp = attrgetter("mode", "layers", "rank", "unfreezes", "options", "rate")
    off = {without_amp(s): s for s in group.settings if s.amp == "off"}
    pairs = [(s, off.get(without_amp(s))) for s in group.usual if s.amp != "off"]
    ratios = [(s, compare(group, cost, s, twin)) for s, twin in pairs if twin]
    return [(s, ratio) for s, ratio in ratios if ratio]
