"""The report's section on frozen weights: settings that differ only in the type that holds them."""

from collections.abc import Sequence
from math import exp, log
from statistics import fmean

from bench.analysis.groups import Group
from bench.analysis.verdicts import COSTS, OBJECTIVES, Objective, better_worse, column
from bench.report import text
from bench.report.changes import Change, point
from bench.report.sections import Section
from bench.report.tables import DASH, Head, Table

_MOST_ROWS = 200
_MOST_OPEN = 40


def frozen_changes(group: Group) -> list[Change]:
    """The settings whose frozen weights have an unusual type, compared with the usual one."""
    usual = {point(s, "frozen"): s for s in group.usual if s.tells_frozen}
    return [
        Change(group, "frozen_dtype", str(setting.frozen), str(against.frozen), setting, against)
        for setting in group.settings
        if setting.tells_frozen and setting.ok
        and (against := usual.get(point(setting, "frozen")))
        and against is not setting and against.ok
    ]  # fmt: skip


def frozen_section(group: Group, prefix: str = "") -> list[Section]:
    """The section on frozen weights; none where all settings hold them in one type."""
    changes = frozen_changes(group)
    if not changes:
        return []
    by_types: dict[str, list[Change]] = {}
    for change in changes:
        by_types.setdefault(_types(change), []).append(change)
    types, first = next(iter(by_types.items()))
    costs = [f"{text.times(mean)}× the {cost}" for cost in COSTS if (mean := _mean(first, cost))]
    heading = f"Frozen weights in {types}: {' and '.join(costs) or 'costs not measured'}"
    sentences = [
        "Each setting is compared with the same one, all else equal; means are geometric. Frozen "
        "weights are those of linear layers that do not train. Intervals are not corrected for the "
        "number of comparisons.",
        *(_sentence(group, types, alike) for types, alike in by_types.items()),
    ]
    tables = [_table(group, changes)]
    return [Section(f"{prefix}frozen", "Frozen weights", heading, sentences, tables=tables)]


def _types(change: Change) -> str:
    return f"{change.value} instead of {change.usual}"


def _mean(changes: Sequence[Change], cost: Objective) -> float | None:
    ratios = [gap.value for change in changes if (gap := change.gaps[cost])]
    return exp(fmean(map(log, ratios))) if ratios else None


def _sentence(group: Group, types: str, changes: Sequence[Change]) -> str:
    """How many comparisons show a difference by their intervals."""
    parts = []
    for cost in COSTS:
        ends = [pair for c in changes if (gap := c.gaps[cost]) and (pair := gap.ends())]
        if ends:
            less, more = sum(high < 1 for _, high in ends), sum(low > 1 for low, _ in ends)
            parts.append(f"the ratio of {cost} is below 1 in {less} and above in {more}")
    gaps = [gap for change in changes if (gap := change.gaps["score"])]
    if gaps:
        better, worse = better_worse(group, gaps)
        parts.append(f"the score is better in {better} and worse in {worse}")
    start = f"In {types}, {text.count(len(changes), 'comparison')}"
    return (
        f"{start}: by their intervals {'; '.join(parts)}." if parts else f"{start}, no intervals."
    )


def _table(group: Group, changes: Sequence[Change]) -> Table:
    heads = [Head("setting", "setting"), Head("frozen", "frozen weights in")]
    for cost in COSTS:
        about = f"{column(group, cost)} against that of the same setting with the usual type"
        heads += [Head(cost, f"× {cost}", about, True), Head(f"{cost}_interval", "95% interval")]
    heads += [
        Head("difference", "difference of scores", "from the setting with the usual type", True),
        Head("difference_interval", "95% interval"),
    ]
    rows = []
    for change in changes[:_MOST_ROWS]:
        row = [change.setting.plain_label, _types(change)]
        for objective in OBJECTIVES:
            shape = text.signed if objective == "score" else text.times
            gap = change.gaps[objective]
            row += [shape(gap.value), text.span(gap, shape) or DASH] if gap else [DASH, DASH]
        rows.append(row)
    caption = "Settings with another type of frozen weights, against those with the usual type."
    folded = len(changes) > _MOST_OPEN
    return Table(heads, rows, caption, total=len(changes), folded=folded)
