"""What the rows of one group show: who wins, what is proven, and which effect is whose."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import exp, log
from typing import Final, Literal

import numpy as np

from adapters.names import ADAPTER_MODES, LAYER_SETS
from bench.groups import Group, Setting
from bench.stats import (
    Interval,
    Spread,
    difference,
    paired_difference,
    paired_ratio,
    ratio,
    spread,
)

Aim = Literal["memory", "time", "score"]
AIMS: Final[tuple[Aim, ...]] = ("memory", "time", "score")

COSTS: Final[tuple[Aim, ...]] = ("memory", "time")

MARGIN: Final = 0.02
"""A score this far below full fine-tuning's, interval included, still counts as kept."""

PAPER_MEMORY: Final = 0.5
"""The paper's claim for LoRA on all linear layers with AMP: half the memory, and ..."""
PAPER_TIMES: Final = (1 / 1.6, 0.4)
"""... 60% faster: 1.6 times the speed, or 60% less time."""


@dataclass(frozen=True)
class Verdict:
    """The best setting for an aim.

    `against` compares it with full fine-tuning in fp32: a ratio for memory and time, a
    difference for the score; None where that was not measured or is the winner itself. `tied`
    counts those of the `of` settings whose difference from the winner is inside its interval;
    None where there are no intervals.
    """

    aim: Aim
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
        inside = self.against.holds(0.0 if self.aim == "score" else 1.0)
        return None if inside is None else not inside


def column(group: Group, aim: Aim) -> str:
    """The column of runs.csv by which an aim is judged in a group."""
    if aim == "score":
        return "dev_score"
    return group.memory_column if aim == "memory" else group.time_column


def compare(group: Group, aim: Aim, a: Setting, b: Setting) -> Interval | None:
    """a against b: a ratio for memory and time, a difference for the score.

    Scores are paired over dev examples and seeds where predictions are kept. Else values are
    paired over the seeds that both have, if they are two or more, or taken from the intervals of
    both. None where either was not measured.
    """
    name = column(group, aim)
    key = (name, id(a), id(b))
    if key not in group.compared:
        group.compared[key] = _compare(name, aim, a, b)
    return group.compared[key]


def _compare(name: str, aim: Aim, a: Setting, b: Setting) -> Interval | None:
    one, two = a.estimate(name), b.estimate(name)
    if one is None or two is None or (aim != "score" and min(one.value, two.value) <= 0):
        return None
    if aim == "score":
        paired = score_spread(a, b)
        if paired is not None:
            return paired.interval()
        return paired_difference(a.by_seed(name), b.by_seed(name)) or difference(one, two)
    return paired_ratio(a.by_seed(name), b.by_seed(name)) or ratio(one, two)


def score_spread(a: Setting, b: Setting) -> Spread | None:
    """What the difference of two settings' scores varies by.

    None unless the predictions of all seeds are kept that both were scored with. Both were scored
    on the same examples, as all rows of a group are.
    """
    seeds = sorted(a.by_seed("dev_score").keys() & b.by_seed("dev_score").keys())
    if not a.values.keys() & b.values.keys() >= set(seeds):
        return None
    gaps = [(a.values[seed], b.values[seed]) for seed in seeds]
    lengths = {len(values) for pair in gaps for values in pair}
    if len(lengths) != 1:
        return None
    return spread(np.stack([one - other for one, other in gaps]))


def verdict(
    group: Group, aim: Aim, among: Callable[[Setting], bool] = lambda _setting: True
) -> Verdict | None:
    """The best setting for an aim, or None where nothing was measured.

    Settings that learned nothing can't win; where none did, that holds for the score alone.
    """
    found = [
        (setting, value)
        for setting in group.judged
        if among(setting) and (setting.learned or aim in COSTS)
        and (value := setting.estimate(column(group, aim))) is not None
    ]  # fmt: skip
    if not found:
        return None
    sign = -1.0 if aim == "score" else 1.0
    winner, value = min(found, key=lambda pair: sign * pair[1].value)
    base = group.baseline
    against = None if base is None or base is winner else compare(group, aim, winner, base)
    return Verdict(aim, winner, value, against, _tied(group, aim, winner, found), len(found))


def _tied(
    group: Group, aim: Aim, winner: Setting, found: Sequence[tuple[Setting, Interval]]
) -> int | None:
    gaps = [compare(group, aim, other, winner) for other, _ in found if other is not winner]
    inside = [gap.holds(0.0 if aim == "score" else 1.0) for gap in gaps if gap is not None]
    known = [answer for answer in inside if answer is not None]
    return sum(known) if known else None


def keeps_score(group: Group, setting: Setting) -> bool:
    """Whether a setting is shown to score no more than `MARGIN` below full fine-tuning."""
    if group.baseline is None or not setting.learned:
        return False
    if setting is group.baseline:
        return setting.estimate("dev_score") is not None
    gap = compare(group, "score", setting, group.baseline)
    ends = gap.ends() if gap else None
    return ends is not None and ends[0] >= -MARGIN


def not_worse(group: Group, setting: Setting) -> bool:
    """Whether a setting is not shown to score below full fine-tuning: weaker than keeping it."""
    if group.baseline is None or setting is group.baseline:
        return False
    gap = compare(group, "score", setting, group.baseline)
    ends = gap.ends() if gap else None
    return ends is not None and ends[1] >= 0


def pareto(group: Group, cost: Aim) -> list[Setting]:
    """Settings that no other beats in both cost and score, from cheap to dear."""
    name = column(group, cost)
    points = []
    for setting in group.settings:
        price, score = setting.estimate(name), setting.estimate("dev_score")
        if price and score and setting.learned:
            points.append((price.value, -score.value, setting))
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
    """What the highest rank gives over the lowest; None with fewer than two ranks scored."""
    scored = [s for s in group.settings if s.rank is not None and s.estimate("dev_score")]
    if len({s.rank for s in scored}) < 2:
        return None
    low, high = min(s.rank or 0 for s in scored), max(s.rank or 0 for s in scored)
    small = {_without_rank(s): s for s in scored if s.rank == low}
    gaps = [
        compare(group, "score", s, small[_without_rank(s)])
        for s in scored
        if s.rank == high and _without_rank(s) in small
    ]
    known = [gap for gap in gaps if gap is not None]
    if not known:
        return None
    ends = [pair for gap in known if (pair := gap.ends())]
    return RankEffect(
        low, high, len(known), sum(e[0] > 0 for e in ends), sum(e[1] < 0 for e in ends),
        sum(gap.value for gap in known) / len(known),
    )  # fmt: skip


def _without_rank(setting: Setting) -> tuple[str, str | None, str, bool, float | None]:
    rate = setting.rate if setting.tells_rate else None
    return setting.mode, setting.layers, setting.amp, setting.unfreezes, rate


@dataclass(frozen=True)
class Effects:
    """Cost against full fine-tuning in fp32, of AMP alone, of an adapter alone, and of both.

    Each is the geometric mean over the `ranks` that have it with AMP and without. `product` is
    what `both` would be if the two effects did not touch each other.
    """

    mode: str
    layers: str
    amp: str
    ranks: int
    amp_alone: float
    adapter_alone: float
    both: float

    @property
    def product(self) -> float:
        """AMP alone times the adapter alone."""
        return self.amp_alone * self.adapter_alone


def effects(group: Group, cost: Aim) -> list[Effects]:
    """AMP's effect told from the adapter's, for each adapter mode, layer set and kind of AMP."""
    name, base = column(group, cost), group.baseline
    unit = _cost(base, name) if base else None
    if unit is None:
        return []
    found = []
    for amp, mode, layers in product(_amps(group), ADAPTER_MODES, LAYER_SETS):
        whole = [s for s in group.settings if not s.unfreezes]
        full = [s for s in whole if s.mode == "full" and s.amp == amp]
        alone = next((cost_of for s in full if (cost_of := _cost(s, name))), None)
        of = [s for s in whole if (s.mode, s.layers) == (mode, layers)]
        off = {s.rank: v for s in of if s.amp == "off" and (v := _cost(s, name))}
        on = {s.rank: v for s in of if s.amp == amp and (v := _cost(s, name))}
        ranks = off.keys() & on.keys()
        if alone is None or not ranks:
            continue
        adapter, both = (_geometric_mean(side[r] / unit for r in ranks) for side in (off, on))
        found.append(Effects(mode, layers, amp, len(ranks), alone / unit, adapter, both))
    return found


def amp_ratios(group: Group, cost: Aim) -> list[tuple[Setting, Interval]]:
    """Each setting that ran with AMP, and its cost against the same setting without."""

    def without_amp(s: Setting) -> tuple[object, ...]:
        return s.mode, s.layers, s.rank, s.unfreezes, s.rate

    off = {without_amp(s): s for s in group.settings if s.amp == "off"}
    found = []
    for setting in group.settings:
        twin = off.get(without_amp(setting))
        if setting.amp != "off" and twin and (gap := compare(group, cost, setting, twin)):
            found.append((setting, gap))
    return found


def _amps(group: Group) -> list[str]:
    return sorted({s.amp for s in group.settings} - {"off"})


def _cost(setting: Setting, name: str) -> float | None:
    estimate = setting.estimate(name)
    return estimate.value if estimate and estimate.value > 0 else None


def _geometric_mean(values: Iterable[float]) -> float:
    logs = [log(value) for value in values]
    return exp(sum(logs) / len(logs))
