"""What the rows of one group show: who wins, and what is proven."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from bench.analysis.groups import Group
from bench.analysis.setting import Run, Setting
from bench.stats.intervals import (
    Interval,
    Spread,
    difference,
    paired_difference,
    paired_ratio,
    ratio,
    spread,
)

Objective = Literal["memory", "time", "score"]
OBJECTIVES: Final[tuple[Objective, ...]] = ("memory", "time", "score")

COSTS: Final[tuple[Objective, ...]] = ("memory", "time")

_FEWEST_REPEATS: Final = 3
"""Of one seed, that are paired."""

PAPER_MEMORY: Final = 0.5
"""The paper's claim for LoRA on all linear layers with AMP: half the memory, and ..."""
PAPER_TIMES: Final = (1 / 1.6, 0.4)
"""... 60% faster: 1.6 times the speed, or 60% less time."""


@dataclass(frozen=True)
class Verdict:
    """The best setting for an objective.

    `against` compares it with full fine-tuning in fp32: a ratio for memory and time, a
    difference for the score; None where that was not measured or is the winner itself. `tied`
    counts those of the `of` settings whose difference from the winner is inside its interval;
    None where there are no intervals.
    """

    objective: Objective
    winner: Setting
    value: Interval
    against: Interval | None
    tied: int | None
    of: int

    @property
    def proven(self) -> bool | None:
        """Whether the difference from full fine-tuning is outside its interval; None: unknown."""
        if self.against is None:
            return None
        inside = self.against.holds(0.0 if self.objective == "score" else 1.0)
        return None if inside is None else not inside


def column(group: Group, objective: Objective) -> str:
    """The column of runs.csv by which an objective is judged in a group."""
    if objective == "score":
        return "dev_score"
    return group.memory_column if objective == "memory" else group.time_column


def compare(group: Group, objective: Objective, a: Setting, b: Setting) -> Interval | None:
    """a against b: a ratio for memory and time, a difference for the score.

    Scores are paired over dev examples and seeds where predictions are kept, else over the seeds
    that both have, if they are two or more. Costs are paired over the runs that both have, if they
    are of two seeds, or three or more of one; runs of two versions of the code are no pair. What
    can't be paired is taken from the intervals of both. None where either was not measured.
    """
    name = column(group, objective)
    key = (name, id(a), id(b))
    if key not in group.compared:
        group.compared[key] = _compare(name, objective, a, b)
    return group.compared[key]


def _compare(name: str, objective: Objective, a: Setting, b: Setting) -> Interval | None:
    one, two = a.estimate(name), b.estimate(name)
    if one is None or two is None or (objective != "score" and min(one.value, two.value) <= 0):
        return None
    if objective == "score":
        paired = score_spread(a, b)
        if paired is not None:
            return paired.interval()
        return paired_difference(a.scores, b.scores) or difference(one, two)
    return _paired_costs(name, a, b) or ratio(one, two)


def _paired_costs(name: str, a: Setting, b: Setting) -> Interval | None:
    """The ratio over runs of the same seed, repeat and version of the code.

    None where these are too few: the spread of two repeats is known worse than that of all
    repeats in the group, which the intervals of both are made of. Runs of different versions are
    no pairs: what all pairs share of the shift between versions would not show in their spread.
    """
    one, two = a.by_run(name), b.by_run(name)
    return paired_ratio(one, two) if _enough(one.keys() & two.keys()) else None


def _enough(runs: Collection[Run]) -> bool:
    return len({run[0] for run in runs}) > 1 or len(runs) > _FEWEST_REPEATS - 1


def score_spread(a: Setting, b: Setting) -> Spread | None:
    """What the difference of two settings' scores varies by.

    None unless the predictions of all seeds are kept that both were scored with. Both were scored
    on the same examples, as all rows of a group are.
    """
    seeds = sorted(a.scores.keys() & b.scores.keys())
    if not a.values.keys() & b.values.keys() >= set(seeds):
        return None
    gaps = [(a.values[seed], b.values[seed]) for seed in seeds]
    lengths = {len(values) for pair in gaps for values in pair}
    if len(lengths) != 1:
        return None
    return spread(np.stack([one - other for one, other in gaps]))


def verdict(
    group: Group, objective: Objective, among: Callable[[Setting], bool] = lambda _setting: True
) -> Verdict | None:
    """The best setting for an objective, or None where nothing was measured.

    Settings that learned nothing can't win; where scores can't be weighed, nothing wins by score,
    and any setting by its costs.
    """
    if objective == "score" and not group.learned:
        return None
    found = [
        (setting, value)
        for setting in group.judged
        if among(setting) and (value := setting.estimate(column(group, objective))) is not None
    ]  # fmt: skip
    if not found:
        return None

    def loss(pair: tuple[Setting, Interval]) -> float:
        return -group.scoring.gain(pair[1].value) if objective == "score" else pair[1].value

    winner, value = min(found, key=loss)
    base = group.baseline
    against = None if base is None or base is winner else compare(group, objective, winner, base)
    return Verdict(
        objective, winner, value, against, _tied(group, objective, winner, found), len(found)
    )


def _tied(
    group: Group, objective: Objective, winner: Setting, found: Sequence[tuple[Setting, Interval]]
) -> int | None:
    gaps = [compare(group, objective, other, winner) for other, _ in found if other is not winner]
    inside = [gap.holds(0.0 if objective == "score" else 1.0) for gap in gaps if gap is not None]
    known = [answer for answer in inside if answer is not None]
    return sum(known) if known else None


def keeps_score(group: Group, setting: Setting) -> bool:
    """Whether a setting is shown to score no worse than full fine-tuning, by the metric's margin.

    That margin is what it may be worse by, interval included.
    """
    if group.baseline is None or not setting.learned:
        return False
    if setting is group.baseline:
        return setting.estimate("dev_score") is not None
    gains = _gains(group, setting, group.baseline)
    return gains is not None and gains[0] >= -group.scoring.margin


def neither_learned(a: Setting, b: Setting) -> bool:
    """Whether both are flagged as having learned nothing, so that their scores say nothing."""
    return not (a.learned or b.learned)


def not_worse(group: Group, setting: Setting) -> bool:
    """Whether a setting is not shown to score worse than full fine-tuning, which is weaker."""
    if group.baseline is None or setting is group.baseline:
        return False
    gains = _gains(group, setting, group.baseline)
    return gains is not None and gains[1] >= 0


def better_worse(group: Group, gaps: Iterable[Interval]) -> tuple[int, int]:
    """Of how many differences of scores the whole interval is better, and worse, than none."""
    ends = [sorted(map(group.scoring.gain, pair)) for gap in gaps if (pair := gap.ends())]
    return sum(low > 0 for low, _ in ends), sum(high < 0 for _, high in ends)


def _gains(group: Group, a: Setting, b: Setting) -> list[float] | None:
    """Both ends of what a scores better than b, the lower first; None where they are not known."""
    gap = compare(group, "score", a, b)
    ends = gap.ends() if gap else None
    return None if ends is None else sorted(map(group.scoring.gain, ends))


def pareto(group: Group, cost: Objective) -> list[Setting]:
    """Settings that no other beats in both cost and score, from cheap to dear.

    None where scores can't be weighed.
    """
    if not group.learned:
        return []
    name = column(group, cost)
    points = []
    for setting in group.settings:
        price, score = setting.estimate(name), setting.estimate("dev_score")
        if price and score and setting.learned:
            points.append((price.value, -group.scoring.gain(score.value), setting))
    front: list[Setting] = []
    best = float("inf")
    for _, lost, setting in sorted(points, key=lambda point: point[:2]):
        if lost < best:
            front.append(setting)
            best = lost
    return front


@dataclass(frozen=True)
class RankEffect:
    """The highest rank against the lowest, over all modes, layer sets and AMP that have both."""

    low: int
    high: int
    pairs: int
    better: int
    worse: int
    mean: float


def rank_effect(group: Group) -> RankEffect | None:
    """What the highest rank gives over the lowest, in pairs of which one is shown to have learned.

    None with fewer than two ranks scored, or where scores can't be weighed.
    """
    if not group.learned:
        return None
    scored = [s for s in group.settings if s.rank is not None and s.estimate("dev_score")]
    if len({s.rank for s in scored}) < 2:
        return None
    low, high = min(s.rank or 0 for s in scored), max(s.rank or 0 for s in scored)
    small = {_without_rank(s): s for s in scored if s.rank == low}
    gaps = [
        compare(group, "score", s, other)
        for s in scored
        if s.rank == high and (other := small.get(_without_rank(s)))
        and not neither_learned(s, other)
    ]  # fmt: skip
    known = [gap for gap in gaps if gap is not None]
    if not known:
        return None
    mean = sum(gap.value for gap in known) / len(known)
    return RankEffect(low, high, len(known), *better_worse(group, known), mean)


def _without_rank(setting: Setting) -> tuple[object, ...]:
    rate = setting.rate if setting.tells_rate else None
    return setting.mode, setting.layers, setting.amp, setting.unfreezes, rate, setting.frozen
