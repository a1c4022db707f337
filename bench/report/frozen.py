"""The report's part on how frozen weights are held: settings that differ in that alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import fmean

from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.analysis.verdicts import (
    COSTS,
    OBJECTIVES,
    Objective,
    better_worse,
    column,
    compare,
    neither_learned,
)
from bench.report import text
from bench.report.sections import Section
from bench.report.tables import DASH, Head, Table
from bench.stats.intervals import Interval

_MOST_ROWS = 200


@dataclass(frozen=True)
class Pair:
    """A setting against the same with frozen weights held as most hold them.

    Attributes:
        gaps: ratios of memory and time, a difference of scores; None where not measured.
    """

    setting: Setting
    usual: Setting
    gaps: dict[Objective, Interval | None]

    @property
    def change(self) -> str:
        """What is held in what, instead of what."""
        return f"{self.setting.frozen} instead of {self.usual.frozen}"


def pairs(group: Group) -> list[Pair]:
    """The settings of a group that are not held as usual, each with the one that is."""
    usual = {_without_frozen(setting): setting for setting in group.usual if setting.tells_frozen}
    return [
        Pair(setting, other, {each: _gap(group, each, setting, other) for each in OBJECTIVES})
        for setting in group.settings
        if setting.tells_frozen and setting.ok
        and (other := usual.get(_without_frozen(setting))) and other is not setting and other.ok
    ]  # fmt: skip


def _without_frozen(setting: Setting) -> tuple[object, ...]:
    return (
        setting.mode, setting.rank, setting.layers, setting.amp, setting.unfreeze, setting.rate
    )  # fmt: skip


def _gap(group: Group, objective: Objective, setting: Setting, other: Setting) -> Interval | None:
    if objective == "score" and neither_learned(setting, other):
        return None
    return compare(group, objective, setting, other)


def frozen_section(group: Group, prefix: str = "") -> list[Section]:
    """What it gives to hold frozen weights otherwise; nothing where all are held alike."""
    found = pairs(group)
    if not found:
        return []
    changes = {pair.change: [one for one in found if one.change == pair.change] for pair in found}
    (change, first), *_ = changes.items()
    costs = [f"{text.times(mean)}× the {cost}" for cost in COSTS if (mean := _mean(first, cost))]
    heading = f"Frozen weights in {change}: {' and '.join(costs) or 'costs not measured'}"
    said = [
        "Each setting against the same, all else equal; means are geometric. Frozen weights are "
        "those of linear layers that do not train. Nothing is corrected for the number of "
        "comparisons.",
        *(_sentence(group, name, of) for name, of in changes.items()),
    ]
    return [
        Section(f"{prefix}frozen", "Frozen weights", heading, said, tables=[_table(group, found)])
    ]


def _mean(found: Sequence[Pair], cost: Objective) -> float | None:
    ratios = [gap.value for pair in found if (gap := pair.gaps[cost])]
    return exp(fmean(map(log, ratios))) if ratios else None


def _sentence(group: Group, change: str, found: Sequence[Pair]) -> str:
    """Of how many comparisons the interval shows something."""
    parts = []
    for cost in COSTS:
        ends = [pair for one in found if (gap := one.gaps[cost]) and (pair := gap.ends())]
        if ends:
            less, more = sum(high < 1 for _, high in ends), sum(low > 1 for low, _ in ends)
            parts.append(f"the ratio of {cost} is below 1 in {less} and above in {more}")
    gaps = [gap for one in found if (gap := one.gaps["score"])]
    if gaps:
        better, worse = better_worse(group, gaps)
        parts.append(f"the score is better in {better} and worse in {worse}")
    said = f"In {change}, {text.count(len(found), 'comparison')}"
    return f"{said}: by their intervals {'; '.join(parts)}." if parts else f"{said}, no intervals."


def _table(group: Group, found: Sequence[Pair]) -> Table:
    heads = [Head("setting", "setting"), Head("frozen", "frozen weights in")]
    for cost in COSTS:
        about = f"{column(group, cost)} against that of the same setting, held as usual"
        heads += [Head(cost, f"× {cost}", about, True), Head(f"{cost}_interval", "95% interval")]
    heads += [
        Head("difference", "difference of scores", "to the same setting, held as usual", True),
        Head("difference_interval", "95% interval"),
    ]
    rows = []
    for pair in found[:_MOST_ROWS]:
        row = [pair.setting.plain_label, pair.change]
        for objective in OBJECTIVES:
            shape = text.signed if objective == "score" else text.times
            gap = pair.gaps[objective]
            row += [shape(gap.value), text.span(gap, shape) or DASH] if gap else [DASH, DASH]
        rows.append(row)
    caption = "Settings against the same with frozen weights held as usual."
    return Table(heads, rows, caption, total=len(found), folded=len(found) > 40)
