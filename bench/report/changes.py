"""The report's sections on settings that differ in one thing: AMP, whose effect and the adapter's
are apart and compared with the paper's claim, and any other setting."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import geometric_mean
from typing import Any, Final

import pandas as pd

from bench.analysis import verdicts
from bench.analysis.groups import Group, hub
from bench.analysis.setting import Setting
from bench.analysis.verdicts import COSTS, OBJECTIVES, Objective, column, compare
from bench.common.grouping import grouped
from bench.report import figures, text
from bench.report.drawing import Drawing
from bench.report.pages import Section, phrase, sentences
from bench.report.tables import MOST_DRAWN, Table, kind, table
from bench.stats.intervals import Interval

_CLAIMED: Final = (("lora", "all-lin-only"), ("lora", "all-lin"))
"""The settings of the paper's claim, LoRA on all linear layers with AMP: half the memory and ..."""
_MEMORY: Final = 0.5
_TIMES: Final = (1 / 1.6, 0.4)  # ... 60% faster: 1.6 times the speed, or 60% less time
_POINT: Final = ("mode", "rank", "layers", "amp", "unfreeze", "frozen", "rate", "options")
_MOST_ROWS: Final = 200
_MOST_CHANGES: Final = 40  # comparisons in a figure


def amp_section(group: Group) -> list[Section]:
    """The section on AMP; none where no cell ended ok."""
    if not group.ok:
        return []
    by_cost = {cost: verdicts.effects(group, cost) for cost in COSTS}
    main = []
    for cost, every in by_cost.items():
        claimed = [e for e in every if (e["mode"], e["layers"]) in _CLAIMED]
        main += [(cost, e, _claim(group, cost, e) if claimed else None)
                 for e in (claimed or every)[:1]]  # fmt: skip
    heading, *lines = sentences(
        "amp", group=group, every=main, paper_memory=_MEMORY, paper_times=_TIMES
    )
    drawings = [
        figures.gaps(
            rows, f"{cost} with AMP, × the same in fp32", f"amp-{cost}",
            phrase("captions", "amp", group, cost, MOST_DRAWN),
        )
        for cost in COSTS if not (rows := amp_frame(group, cost)).empty
    ]  # fmt: skip
    fields = [{"cost": cost, **e} for cost, every in by_cost.items() for e in every]
    tables = [table("amp", fields)] if fields else []
    return [Section("amp", "AMP", heading, lines, drawings, tables)]


def amp_frame(group: Group, cost: Objective) -> pd.DataFrame:
    """A row for each setting that ran with AMP: its cost against that without, by rank."""
    ratios = verdicts.amp_ratios(group, cost)[:MOST_DRAWN]
    ranks = sorted({setting.rank for setting, _ in ratios if setting.rank})
    offsets = [_offset(ranks.index(s.rank), len(ranks)) if s.rank else 0.0 for s, _ in ratios]
    return _gaps((kind(s), s, gap, at) for (s, gap), at in zip(ratios, offsets, strict=True))


def _gaps(gaps: Iterable[tuple[str, Setting, Interval, float]]) -> pd.DataFrame:
    """The rows of a figure of gaps: each with its line's name, its setting, and its offset."""
    return pd.DataFrame(
        {
            "kind": name, "mode": setting.mode, "amp": setting.amp, "offset": offset,
            "value": gap.value, "low": low, "high": high,
        }
        for name, setting, gap, offset in gaps
        for low, high in [gap.ends() or (gap.value, gap.value)]
    )  # fmt: skip


def _offset(place: int, places: int) -> float:
    return 0.5 * ((place + 0.5) / places - 0.5)


def _claim(
    group: Group, cost: Objective, e: Mapping[str, Any]
) -> tuple[float, float, bool, list[int]]:
    """What decides whether the paper's claim is reached: the ends of all intervals, whether some
    settings have none, and the numbers of runs of these and of the baseline."""
    base, axes = group.baseline, (e["mode"], e["layers"], e["amp"])
    alike = [s for s in group.usual if (s.mode, s.layers, s.amp) == axes and not s.unfreezes]
    pairs = [(s, gap) for s in alike if base and (gap := compare(group, cost, s, base))]
    ends = [gap.ends() or (gap.value, gap.value) for _, gap in pairs]
    few = [len(setting.ok) for setting, gap in pairs if gap.ends() is None]
    runs = [*few, len(base.ok)] if base else few
    return min(end[0] for end in ends), max(end[1] for end in ends), bool(few), runs


@dataclass(frozen=True)
class Change:
    """A setting compared with the same one without one change."""

    group: Group  # whose metric and cost columns the comparison uses
    name: str  # the column that differs
    value: str  # with the change
    usual: str
    setting: Setting  # with the change
    against: Setting

    @cached_property
    def gaps(self) -> dict[Objective, Interval | None]:
        """The difference of scores, unless neither setting learned anything, and the ratios of
        memory and time; None where not measured."""
        gaps = {name: compare(self.group, name, self.setting, self.against) for name in OBJECTIVES}
        return gaps if self.setting.learned or self.against.learned else gaps | {"score": None}

    @property
    def label(self) -> str:
        """The change as text, such as `head conv`."""
        return f"{self.name.replace('_', ' ')} {self.value}"

    @property
    def title(self) -> str:
        """The change with the usual value, such as `head conv instead of linear`."""
        return f"{self.label} instead of {self.usual}"


def point(setting: Setting, without: str = "") -> tuple[object, ...]:
    """A setting's axes, rate and frozen type, except the one named."""
    return tuple(getattr(setting, name) for name in _POINT if name != without)


def changes(base: Group, neighbours: Sequence[tuple[Group, str]]) -> list[Change]:
    """The comparisons of each neighbour's settings with those of the base, and of unfreezing."""
    of = grouped(base.settings, lambda setting: setting.unfreezes)
    compared = _compared(base, "unfreeze", of.get(True, []), of.get(False, []), "unfreeze")
    for group, name in neighbours:
        values = tuple(text.setting_value(one.shared(name)) for one in (group, base))
        compared += _compared(base, name, group.settings, base.settings, "", values)
    return compared


def frozen_changes(group: Group) -> list[Change]:
    """The settings whose frozen weights have an unusual type, compared with the usual one."""
    usual, every = ([s for s in of if s.tells_frozen] for of in (group.usual, group.settings))
    return _compared(group, "frozen_dtype", every, usual, "frozen")


def _compared(
    group: Group, name: str, settings: Sequence[Setting], usual: Sequence[Setting], axis: str,
    values: tuple[str, ...] = (),
) -> list[Change]:  # fmt: skip
    """The comparisons of settings with usual ones that are alike but for an axis, whose values are
    those of a column, unless they are given."""
    by_point = {point(setting, axis): setting for setting in reversed(usual) if setting.ok}
    compared = []
    for setting in settings:
        against = by_point.get(point(setting, axis))
        if setting.ok and against and against is not setting:
            value, before = values or (str(getattr(s, axis)) for s in (setting, against))
            compared.append(Change(group, name, value, before, setting, against))
    return compared


def changes_sections(groups: Sequence[Group], prefix: str = "") -> list[Section]:
    """The section on changed settings; none where nothing differs in a single setting. It compares
    the first group's types of frozen weights, and the groups around the hub with it; in two
    sections if the hub is another group, which may have another metric."""
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
        "changes", compared=compared, base=base, scored=scored, better_worse=verdicts.better_worse,
        several=[(title, *_summary(alike)) for title, alike in by_title.items() if len(alike) > 1],
    )  # fmt: skip
    drawings = [_drawing(base, compared, anchor)] if 0 < len(scored) <= _MOST_CHANGES else []
    return Section(anchor, "Settings", heading, lines, drawings, [_table(base, compared)])


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


def _drawing(base: Group, changes: Sequence[Change], stem: str) -> Drawing:
    scored = [(change, gap) for change in changes if (gap := change.gaps["score"]) is not None]
    lines = grouped(scored, lambda pair: pair[0].label)
    rows = _gaps(
        (label, change.setting, gap, _offset(place, len(alike)))
        for label, alike in lines.items()
        for place, (change, gap) in enumerate(alike)
    )
    label, caption = f"difference of {text.y_label(base)}", phrase("captions", "changes", base)
    return figures.gaps(rows, label, stem, caption, at=0.0)


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
            row[objective] = shape(gap.value) if gap else None
            row[f"{objective}_interval"] = text.span(gap, shape) or None if gap else None
        rows.append(row)
    columns: dict[str, str] = {cost: column(base, cost) for cost in COSTS}
    is_long = len(changes) > _MOST_CHANGES
    return table("changes", rows, words=columns, total=len(changes), folded=is_long)
