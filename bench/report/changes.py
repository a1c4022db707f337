"""The report's part on settings: groups that differ in one setting alone, cell against cell."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from bench.analysis.groups import CHANGED, Group, differing, group_key
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

_PLANNED: Final = frozenset(CHANGED) - {"batch_size", "epochs", "max_steps"}
"""Those of them in which a grid's cells differ from one of them that is meant as usual."""
_UNFREEZING: Final = "unfreeze"
_MOST_GROUPS: Final = 60
_MOST_ROWS: Final = 200
_MOST_DRAWN: Final = 40


@dataclass(frozen=True)
class Change:
    """A setting of one group against the same with one thing changed.

    Attributes:
        name: the column that differs; `value`, `usual`: what it is, and what it is otherwise.
        setting: with the change; `against`: without.
        gaps: a difference of scores, ratios of memory and time; None where not measured.
    """

    name: str
    value: str
    usual: str
    setting: Setting
    against: Setting
    gaps: dict[Objective, Interval | None]

    @property
    def label(self) -> str:
        """What is changed, as `head conv`."""
        return f"{self.name.replace('_', ' ')} {self.value}"


def hub(
    groups: Sequence[Group], names: Collection[str] = CHANGED
) -> tuple[Group, list[tuple[Group, str]]] | None:
    """The group from which most others differ in one setting, and these with the setting's name.

    None where there is no such group, or where groups are too many to be looked through.

    Args:
        names: the settings that count.
    """
    if not 1 < len(groups) <= _MOST_GROUPS:
        return None
    found = [(base, [*_neighbours(base, groups, names)]) for base in groups]
    base, others = max(found, key=lambda one: len(one[1]))
    return (base, others) if others else None


def hub_first(groups: Sequence[Group], wanted: Collection[object]) -> list[Group]:
    """The groups, with the one first that the first differs from in a setting, as others do.

    Args:
        wanted: keys of the groups that were planned, which stay first; of none, none.
    """
    found = hub(groups, _PLANNED)
    base = found[0] if found else None
    if base is None or found is None or groups[0] not in [group for group, _ in found[1]]:
        return list(groups)
    if wanted and group_key(base.first) not in wanted:
        return list(groups)
    return [base, *(group for group in groups if group is not base)]


def changes(base: Group, others: Sequence[tuple[Group, str]]) -> list[Change]:
    """What each group changes that differs from one in one setting, cell by cell."""
    found = [*_unfreezing(base)]
    for other, name in others:
        value, usual = (_said(group.shared(name)) for group in (other, base))
        pairs = ((setting, _same(setting, base)) for setting in other.settings)
        found += [
            Change(name, value, usual, setting, against, _gaps(base, setting, against))
            for setting, against in pairs
            if against is not None and against.ok and setting.ok
        ]
    return found


def _neighbours(
    base: Group, groups: Sequence[Group], names: Collection[str]
) -> Iterator[tuple[Group, str]]:
    """The groups that differ from one in one setting that counts, with its name."""
    for group in groups:
        found = [] if group is base else differing(group, base)
        if len(found) == 1 and found[0] in names:
            yield group, found[0]


def _same(setting: Setting, base: Group) -> Setting | None:
    """The setting of a group with the same axes and rate."""
    return next((of for of in base.settings if _axes(of) == _axes(setting)), None)


def _axes(setting: Setting) -> tuple[object, ...]:
    return (*_kind(setting), setting.unfreeze)


def _kind(setting: Setting) -> tuple[object, ...]:
    return (
        setting.mode, setting.rank, setting.layers, setting.amp, setting.rate, setting.frozen
    )  # fmt: skip


def _unfreezing(base: Group) -> Iterator[Change]:
    """Gradual unfreezing, which is an axis, against the same setting without."""
    plain = {_kind(of): of for of in base.settings if not of.unfreezes and of.ok}
    for setting in base.settings:
        against = plain.get(_kind(setting))
        if setting.unfreezes and setting.ok and against is not None:
            gaps = _gaps(base, setting, against)
            value, usual = str(setting.unfreeze), str(against.unfreeze)
            yield Change(_UNFREEZING, value, usual, setting, against, gaps)


def _gaps(base: Group, setting: Setting, against: Setting) -> dict[Objective, Interval | None]:
    gaps = {objective: compare(base, objective, setting, against) for objective in OBJECTIVES}
    return gaps | {"score": None} if neither_learned(setting, against) else gaps


def changes_section(groups: Sequence[Group]) -> list[Section]:
    """What each changed setting gives; nothing where groups don't differ in one setting alone."""
    found = hub(groups)
    compared = [] if found is None else changes(*found)
    if found is None or not compared:
        return []
    base = found[0]
    scored = [gap for change in compared if (gap := change.gaps["score"]) is not None]
    heading = f"One setting changed: {text.count(len(compared), 'comparison')}"
    if scored:
        better, worse = better_worse(base, scored)
        heading += f", {better} proven better by dev score and {worse} worse"
    return [
        Section(
            "changes", "Settings", heading, [_what(compared)], _drawings(base, compared),
            [_table(base, compared)],
        )
    ]  # fmt: skip


def _what(changes: Sequence[Change]) -> str:
    usual = {change.name: change.usual for change in changes}
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in usual.items())
    return (
        f"Each cell against the same one with {told}, all else equal. Learning rates are equal, "
        "too: a setting that needs others than these is not seen at its best. Nothing is corrected "
        "for the number of comparisons."
    )


def _drawings(base: Group, changes: Sequence[Change]) -> list[Drawing]:
    """The differences of scores, where there are not too many."""
    scored = [change for change in changes if change.gaps["score"] is not None]
    if not 0 < len(scored) <= _MOST_DRAWN:
        return []
    labels = list(dict.fromkeys(change.label for change in scored))
    rows = []
    for label in labels:
        alike = [change for change in scored if change.label == label]
        for place, change in enumerate(alike):
            gap = change.gaps["score"]
            ends = (gap.ends() if gap else None) or (None, None)
            rows.append({
                "kind": label, "mode": change.setting.mode, "amp": change.setting.amp,
                "value": gap.value if gap else None, "low": ends[0], "high": ends[1],
                "offset": 0.5 * ((place + 0.5) / len(alike) - 0.5),
            })  # fmt: skip
    frame = pd.DataFrame(rows).astype({"value": float, "low": float, "high": float})
    return [
        figures.gaps(
            frame, f"difference of {text.y_label(base)}", "changes",
            "Right of 0: the changed setting scores higher. 95% intervals.", at=0.0,
        )
    ]  # fmt: skip


def _table(base: Group, changes: Sequence[Change]) -> Table:
    heads = [
        Head("changed", "changed"),
        Head("cell", "cell"),
        Head("dev_score", "dev score", "", True),
        Head("difference", "difference", "of dev scores, to the same cell without it", True),
        Head("interval", "95% interval", "of the difference"),
        *(Head(cost, f"× {cost}", f"{column(base, cost)} against that cell's", True)
          for cost in COSTS),
    ]  # fmt: skip
    rows = [
        [
            change.label, change.setting.label, _score(change.setting),
            text.signed(gap.value) if (gap := change.gaps["score"]) else DASH,
            (gap and text.span(gap, text.signed)) or DASH,
            *(text.times(ratio.value) if (ratio := change.gaps[cost]) else DASH for cost in COSTS),
        ]
        for change in changes[:_MOST_ROWS]
    ]  # fmt: skip
    caption = "Cells with one setting changed, against the same cells without the change."
    return Table(heads, rows, caption, total=len(changes), folded=len(changes) > _MOST_DRAWN)


def _score(setting: Setting) -> str:
    score = setting.estimate("dev_score")
    return text.fixed(score.value) if score else "not measured"


def _said(value: object) -> str:
    return "none" if value is None else str(value)
