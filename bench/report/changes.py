"""The report's section on settings: cells that differ in one setting, compared."""

from collections.abc import Iterator, Sequence
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
from bench.report import figures, text
from bench.report.drawing import Drawing
from bench.report.sections import Section
from bench.report.tables import DASH, Head, Table
from bench.stats.intervals import Interval

_POINT: Final = ("mode", "rank", "layers", "amp", "unfreeze", "frozen", "rate", "options")
_METHOD: Final = (
    "Each cell is compared with the same cell without the change, all else equal; mean ratios are "
    "geometric. Learning rates are equal too, so a setting that needs other rates is not seen at "
    "its best. Intervals are not corrected for the number of comparisons."
)
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
    compared = [*_unfreezing(base)]
    for group, name in neighbours:
        value, before = (text.setting_value(one.shared(name)) for one in (group, base))
        compared += [
            Change(base, name, value, before, setting, against)
            for setting in group.settings
            if (against := usual.get(point(setting))) and against.ok and setting.ok
        ]
    return compared


def _unfreezing(base: Group) -> Iterator[Change]:
    """Gradual unfreezing, an axis of the grid, compared with the same setting without it."""
    usual = {point(s, "unfreeze"): s for s in base.settings if not s.unfreezes and s.ok}
    for setting in base.settings:
        against = usual.get(point(setting, "unfreeze"))
        if setting.unfreezes and setting.ok and against is not None:
            value, before = str(setting.unfreeze), str(against.unfreeze)
            yield Change(base, "unfreeze", value, before, setting, against)


def frozen_changes(group: Group) -> list[Change]:
    """The settings whose frozen weights have an unusual type, compared with the usual one."""
    usual = {point(s, "frozen"): s for s in group.usual if s.tells_frozen and s.ok}
    return [
        Change(group, "frozen_dtype", str(setting.frozen), str(against.frozen), setting, against)
        for setting in group.settings
        if setting.tells_frozen and setting.ok
        and (against := usual.get(point(setting, "frozen")))
        and against is not setting
    ]  # fmt: skip


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
    heading = f"One setting changed: {text.count(len(compared), 'comparison')}"
    if scored:
        better, worse = better_worse(base, scored)
        heading += f", {better} significantly better by dev score and {worse} worse"
    by_title: dict[str, list[Change]] = {}
    for change in compared:
        by_title.setdefault(change.title, []).append(change)
    several = {title: alike for title, alike in by_title.items() if len(alike) > 1}
    summaries = [f"{title}: {_summary(alike)}." for title, alike in several.items()]
    return Section(
        anchor, "Settings", heading, [_METHOD, *summaries],
        _drawings(base, compared, anchor), [_table(base, compared)],
    )  # fmt: skip


def _summary(alike: Sequence[Change]) -> str:
    """The mean ratios of costs, and how many comparisons show a difference by their intervals."""
    parts = [text.count(len(alike), "comparison")]
    for cost in COSTS:
        gaps = [gap for change in alike if (gap := change.gaps[cost])]
        ends = [pair for gap in gaps if (pair := gap.ends())]
        less, more = sum(high < 1 for _, high in ends), sum(low > 1 for low, _ in ends)
        significant = f", significantly less in {less} and more in {more}" if ends else ""
        if gaps:
            mean = text.times(geometric_mean(gap.value for gap in gaps))
            parts.append(f"{mean}× the {cost}{significant}")
    scored = [gap for change in alike if (gap := change.gaps["score"])]
    if scored:
        better, worse = better_worse(alike[0].group, scored)
        parts.append(f"the score is significantly better in {better} and worse in {worse}")
    return "; ".join(parts)


def _drawings(base: Group, changes: Sequence[Change], stem: str) -> list[Drawing]:
    """The differences of scores, unless there are too many to draw."""
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
    better = "Right of 0: the changed setting scores higher"
    if not base.scoring.higher_is_better:
        better = "Left of 0: the changed setting scores lower, which is better"
    return [
        figures.gaps(
            frame, f"difference of {text.y_label(base)}", stem,
            f"{better}. 95% intervals.", at=0.0,
        )
    ]  # fmt: skip


def _table(base: Group, changes: Sequence[Change]) -> Table:
    heads = [
        Head("changed", "changed"),
        Head("cell", "cell"),
        Head("dev_score", "dev score", "", True),
        Head("difference", "difference", "of dev scores, from the same cell without it", True),
        Head("interval", "95% interval", "of the difference"),
    ]
    for cost in COSTS:
        about = f"{column(base, cost)} against that cell's"
        heads += [Head(cost, f"× {cost}", about, True), Head(f"{cost}_interval", "95% interval")]
    rows = []
    for change in changes[:_MOST_ROWS]:
        score = change.setting.estimate("dev_score")
        row = [change.title, change.setting.label]
        row.append(text.score(change.group, score.value) if score else "not measured")
        for objective in ("score", *COSTS):
            in_score = partial(text.score_gap, change.group)
            shape = in_score if objective == "score" else text.times
            gap = change.gaps[objective]
            row += [shape(gap.value), text.span(gap, shape) or DASH] if gap else [DASH, DASH]
        rows.append(row)
    caption = "Cells with one setting changed, against the same cells without the change."
    return Table(heads, rows, caption, total=len(changes), folded=len(changes) > _MOST_DRAWN)
