"""The report's section on settings: cells that differ in one setting, compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import geometric_mean
from typing import Final

import pandas as pd

from bench.analysis.groups import Group, hub
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
from bench.common.grouping import grouped
from bench.report import figures, text
from bench.report.drawing import Drawing
from bench.report.pages import phrase, sentences
from bench.report.sections import Section
from bench.report.tables import Table, table
from bench.stats.intervals import Interval

_POINT: Final = ("mode", "rank", "layers", "amp", "unfreeze", "frozen", "rate", "options")
_KEYS: Final = {"score": ("difference", "interval")}
"""The columns of a gap and its interval, where they don't have the objective's name."""
_MOST_ROWS: Final = 200
_MOST_DRAWN: Final = 40


@dataclass(frozen=True)
class Change:
    """A setting compared with the same one without one change.

    Attributes:
        group: the group whose metric and cost columns the comparison uses.
        name: the column that differs; `value` with the change, `usual` without it.
        setting: the setting with the change; `against`: the one without it.
    """

    group: Group
    name: str
    value: str
    usual: str
    setting: Setting
    against: Setting

    @cached_property
    def gaps(self) -> dict[Objective, Interval | None]:
        """The difference of scores and the ratios of memory and time; None where not measured.

        Scores are not compared where neither setting learned anything.
        """
        gaps = {name: compare(self.group, name, self.setting, self.against) for name in OBJECTIVES}
        return gaps | {"score": None} if neither_learned(self.setting, self.against) else gaps

    @property
    def label(self) -> str:
        """The change as text, such as `head conv`."""
        return f"{self.name.replace('_', ' ')} {self.value}"

    @property
    def title(self) -> str:
        """The change with the usual value, such as `head conv instead of linear`."""
        return f"{self.label} instead of {self.usual}"


def point(setting: Setting, without: str | None = None) -> tuple[object, ...]:
    """A setting's axes, rate and frozen type, except the one named."""
    return tuple(getattr(setting, name) for name in _POINT if name != without)


def changes(base: Group, neighbours: Sequence[tuple[Group, str]]) -> list[Change]:
    """The comparisons of each neighbour's settings with those of the base, and of unfreezing."""
    usual = {point(setting): setting for setting in reversed(base.settings)}
    without = [setting for setting in base.settings if not setting.unfreezes]
    compared = _within(base, "unfreeze", "unfreeze", without, lambda s: s.unfreezes)
    for group, name in neighbours:
        value, before = (text.setting_value(one.shared(name)) for one in (group, base))
        compared += [
            Change(base, name, value, before, setting, against)
            for setting in group.settings
            if (against := usual.get(point(setting))) and against.ok and setting.ok
        ]
    return compared


def _within(
    group: Group,
    axis: str,
    name: str,
    usual: Sequence[Setting],
    has_changed: Callable[[Setting], bool],
) -> list[Change]:
    """The comparisons of a group's settings with usual ones that differ on an axis alone."""
    by_point = {point(setting, axis): setting for setting in usual if setting.ok}
    return [
        Change(group, name, str(getattr(s, axis)), str(getattr(against, axis)), s, against)
        for s in group.settings
        if has_changed(s)
        and s.ok
        and (against := by_point.get(point(s, axis)))
        and against is not s
    ]


def frozen_changes(group: Group) -> list[Change]:
    """The settings whose frozen weights have an unusual type, compared with the usual one."""
    usual = [setting for setting in group.usual if setting.tells_frozen]
    return _within(group, "frozen", "frozen_dtype", usual, lambda s: s.tells_frozen)


def changes_sections(groups: Sequence[Group], prefix: str = "") -> list[Section]:
    """The section on changed settings; none where nothing differs in a single setting.

    It compares the first group's types of frozen weights, and the groups around the hub with it; in
    two sections if the hub is another group, which may have another metric.
    """
    base, neighbours = hub(groups) or (groups[0], [])
    frozen, others = frozen_changes(groups[0]), changes(base, neighbours) if neighbours else []
    parts = [frozen + others] if base is groups[0] else [frozen, others]
    anchors = (f"{prefix}changes", f"{prefix}changes-2")
    return [_section(part, at) for part, at in zip(filter(None, parts), anchors, strict=False)]


def _section(compared: Sequence[Change], anchor: str) -> Section:
    base = compared[0].group
    scored = [gap for change in compared if (gap := change.gaps["score"]) is not None]
    by_title = grouped(compared, lambda change: change.title)
    heading, *lines = sentences(
        "changes", compared=compared, base=base, scored=scored, better_worse=better_worse,
        several=[(title, *_summary(alike)) for title, alike in by_title.items() if len(alike) > 1],
    )  # fmt: skip
    drawings, shown = _drawings(base, compared, anchor), _table(base, compared)
    return Section(anchor, "Settings", heading, lines, drawings, [shown])


def _summary(
    alike: Sequence[Change],
) -> tuple[int, list[tuple[str, float, int | None, int | None]], list[Interval]]:
    """The number of comparisons; by cost the mean ratio, and how many comparisons show less and
    more by their intervals, if they have any; and the differences of scores."""
    costs: list[tuple[str, float, int | None, int | None]] = []
    for cost in COSTS:
        gaps = [gap for change in alike if (gap := change.gaps[cost])]
        ends = [pair for gap in gaps if (pair := gap.ends())]
        less, more = sum(high < 1 for _, high in ends), sum(low > 1 for low, _ in ends)
        if gaps:
            mean = geometric_mean(gap.value for gap in gaps)
            costs.append((cost, mean, less if ends else None, more if ends else None))
    return len(alike), costs, [gap for change in alike if (gap := change.gaps["score"])]


def _drawings(base: Group, changes: Sequence[Change], stem: str) -> list[Drawing]:
    scored = [(change, gap) for change in changes if (gap := change.gaps["score"]) is not None]
    if not 0 < len(scored) <= _MOST_DRAWN:
        return []
    rows = []
    for label in dict.fromkeys(change.label for change, _ in scored):
        alike = [(change.setting, gap) for change, gap in scored if change.label == label]
        for place, (setting, gap) in enumerate(alike):
            low, high = gap.ends() or (None, None)
            rows.append({
                "kind": label, "mode": setting.mode, "amp": setting.amp,
                "value": gap.value, "low": low, "high": high,
                "offset": 0.5 * ((place + 0.5) / len(alike) - 0.5),
            })  # fmt: skip
    frame = pd.DataFrame(rows).astype({"value": float, "low": float, "high": float})
    label, caption = f"difference of {text.y_label(base)}", phrase("captions", "changes", base)
    return [figures.gaps(frame, label, stem, caption, at=0.0)]


def _table(base: Group, changes: Sequence[Change]) -> Table:
    rows = []
    for change in changes[:_MOST_ROWS]:
        score = change.setting.estimate("dev_score")
        row: dict[str, str | None] = {
            "changed": change.title, "cell": change.setting.label,
            "dev_score": text.score(change.group, score.value) if score else "not measured",
        }  # fmt: skip
        for objective, gap in change.gaps.items():
            in_score = partial(text.score_gap, change.group)
            shape = in_score if objective == "score" else text.times
            value, ends = _KEYS.get(objective, (objective, f"{objective}_interval"))
            row[value] = shape(gap.value) if gap else None
            row[ends] = text.span(gap, shape) or None if gap else None
        rows.append(row)
    columns: dict[str, str] = {cost: column(base, cost) for cost in COSTS}
    is_long = len(changes) > _MOST_DRAWN
    return table("changes", rows, words=columns, total=len(changes), folded=is_long)
