"""The pages of `bench.report --history`: each setting against a reference, by version of the code.
Loads pandas and matplotlib."""

from collections.abc import Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes

from bench.analysis.comparison import Limits, Measure
from bench.analysis.groups import Group, differing, groups
from bench.analysis.history import History, Series, history
from bench.common.errors import InputError
from bench.common.grouping import grouped
from bench.common.messages import command_line
from bench.plan.rows import Row
from bench.report.drawing import BLUE, GREY, ORANGE, Drawing, canvas
from bench.report.pages import Facts, Section, phrase, sentences, write_pages
from bench.report.render import printable, title
from bench.report.tables import DASH, Head, Table, table
from bench.report.text import num, range_of, score_gap, shortened, times, without_paths
from bench.stats.changepoints import SHORTEST

_MOST_DRAWN: Final = 12  # settings in a figure, those with changes first
_MOST_FINDINGS: Final = 8
_MOST_OTHERS: Final = 12
_LONGEST_LABEL: Final = 34
_UNITS: Final = {"mib": " MiB", "gflop": " GFLOP"}
"""Of absolute values, by the end of their column's name."""
_SMALL: Final = 0.1  # ratios below it are shown to three digits
_NARROWEST: Final = 0.05
"""The least extent of an axis in shares of the values, so that noise doesn't look like a change."""


def write_history(
    rows: Sequence[Row], folder: Path, sources: Sequence[str]
) -> tuple[Path, dict[str, Any]]:
    """Write history.html, history.md, history.json and figures on the group with the most versions
    of the code, of rows from these files; return the page and the data. InputError if no cell ended
    ok, and errors as `write_pages`."""
    every = groups(printable(rows))
    every.sort(key=lambda group: -len({row.code_version for row in group.rows if row.is_ok}))
    shown = history(every[0]) if every else None
    if shown is None:
        raise InputError(f"{' '.join(sources)}: no cell ended ok, so there is no history")
    data = _data(shown)
    facts = Facts(
        title=f"History: {title(shown.group)}",
        findings=data["findings"],
        sections=_sections(shown, every[1:]),
        how="How it is computed",
        notes=sentences(
            "history", limits=Limits(), reference=shown.reference.label, shortest=SHORTEST
        ),
        command=without_paths(command_line("report", "--history", "--runs", *sources)),
    )
    return write_pages(folder, "history", facts, data=data), data


def _events(shown: History) -> list[tuple[str, str, list[str]]]:
    """Settings with a version and what changed since it; all others as one where all ratios of a
    measure change."""
    reference = shown.reference.label
    events = grouped(shown.changes, lambda change: (change.at, change.series.measure))
    by_setting: dict[tuple[int, str], list[str]] = {}
    for (at, measure), changes in events.items():
        ratios = [change for change in changes if not change.series.is_reference]
        every = sum(s.measure == measure and not s.is_reference for s in shown.series)
        common = len(ratios) == every > 1 and len({c.after > c.before for c in ratios}) == 1
        for change in changes:
            before, after = (_value(shown, change.series, v) for v in (change.before, change.after))
            if change.series.is_reference or not common:
                name = change.series.setting.label
                name += "" if change.series.is_reference else f" against {reference}"
                words = f"{measure.label} {after} (was {before})"
                by_setting.setdefault((at, name), []).append(words)
        if common:
            ends = range_of([c.effect for c in ratios], partial(_effect, shown, measure))
            own = "changed" if len(changes) > len(ratios) else "may have changed"
            name = f"All others against {reference}, which itself {own}"
            words = f"{measure.label} is {ends} what it was"
            by_setting.setdefault((at, name), []).append(words)
    return [(name, shown.versions[at], words) for (at, name), words in by_setting.items()]


def _value(shown: History, series: Series, value: float) -> str:
    if series.measure.kind == "score":
        return score_gap(shown.group, value)
    if series.is_reference:
        return f"{num(value)}{_UNITS.get(series.measure.column.rpartition('_')[2], '')}"
    return f"{times(value) if value >= _SMALL else num(value)}×"


def _effect(shown: History, measure: Measure, effect: float) -> str:
    return score_gap(shown.group, effect) if measure.kind == "score" else f"{times(effect)}×"


def _sections(shown: History, others: Sequence[Group]) -> list[Section]:
    lines = sentences(
        "history_tables", others=[(title(one), differing(one, shown.group)) for one in others],
        most=_MOST_OTHERS, left_out=shown.left_out, reference=shown.reference.label,
    )  # fmt: skip
    families = grouped(shown.series, lambda series: series.measure.column)
    drawings = [_drawing(shown, family) for family in families.values()]
    versions = [{"version": v, "started_at": shown.started_at[v]} for v in shown.versions]
    tables = [
        *([_changes(shown)] if shown.changes else []), _latest(shown, list(families)),
        table("versions", versions, folded=True),
    ]  # fmt: skip
    return [
        Section("figures", "Figures", "By version of the code", drawings=drawings),
        Section("tables", "Tables", "In numbers", lines, tables=tables),
    ]


def _changes(shown: History) -> Table:
    rows = [
        {
            "setting": change.series.setting.label, "measure": change.series.measure.label,
            "since": shown.versions[change.at],
            "before": _value(shown, change.series, change.before),
            "after": _value(shown, change.series, change.after),
            "effect": _effect(shown, change.series.measure, change.effect),
        }
        for change in shown.changes
    ]  # fmt: skip
    return table("history", rows)


def _latest(shown: History, columns: Sequence[str]) -> Table:
    cells = {(id(s.setting), s.measure.column): s for s in shown.series}
    labels = {series.measure.column: series.measure.label for series in shown.series}

    def field(series: Series | None) -> str:
        value = series.values[-1] if series else None
        return DASH if series is None or value is None else _value(shown, series, value)

    heads = [Head("setting", "setting"), *(Head(c, labels[c], "", True) for c in columns)]
    rows = [
        [setting.label, *(field(cells.get((id(setting), column))) for column in columns)]
        for setting in shown.group.settings
    ]
    marks = ["baseline" if s is shown.reference else "" for s in shown.group.settings]
    caption = f"The newest version, {shown.versions[-1]}, against {shown.reference.label}."
    return Table(heads, rows, caption, marks)


def _drawing(shown: History, family: Sequence[Series]) -> Drawing:
    """Small multiples of a measure: a panel for each setting, with the medians of its segments."""
    measure, reference = family[0].measure, shown.reference.label
    drawn = sorted(family, key=lambda one: (not one.starts, not one.is_reference))[:_MOST_DRAWN]
    lines = ceil(len(drawn) / 2)
    with canvas(0.5 + 1.15 * lines, lines, min(2, len(drawn))) as (figure, _):
        for axes in figure.axes[len(drawn) :]:
            axes.remove()
        for i, (axes, series) in enumerate(zip(figure.axes, drawn, strict=True)):
            _panel(axes, series, _ticks(shown, series, is_last=i >= len(drawn) - 2))
    with_reference = family[0].is_reference or any(series.is_reference for series in drawn)
    numbers = len(drawn), len(family)
    caption = phrase("captions", "history", measure, reference, with_reference, *numbers)
    medians = [
        (one.setting.label, [_value(shown, one, part.median) for part in one.segments])
        for one in drawn
    ]
    alt = phrase("captions", "history_alt", measure.label, medians)
    stem = f"history-{measure.column.replace('_', '-')}"
    return Drawing.of(figure, stem, alt, caption)


def _ticks(shown: History, series: Series, is_last: bool) -> dict[int, str]:
    """The versions of changes, or, in the last panels, the first and the last one."""
    last = len(shown.versions) - 1
    places = list(series.starts or (sorted({0, last}) if is_last else []))
    spaced = [at for i, at in enumerate(places) if not i or at - places[i - 1] > last / 3]
    return {at: shown.versions[at].rpartition("+g")[2][:7] for at in spaced}


def _panel(axes: Axes, series: Series, ticks: dict[int, str]) -> None:
    unit = next(v for v in series.values if v is not None) if series.is_reference else 1.0
    values = [value / unit for value in series.values if value is not None]
    axes.plot(series.known, values, linestyle="none", marker="o", markersize=3, color=GREY)
    for i, part in enumerate(series.segments):
        ends = [part.start - 0.3, part.end + 0.3]
        axes.plot(ends, [part.median / unit] * 2, color=ORANGE if i else BLUE, linewidth=1.8)
    low, high = min(values), max(values)
    half = max(0.6 * (high - low), _NARROWEST * (abs(high) or 1.0))
    axes.set_ylim((low + high - 2 * half) / 2, (low + high + 2 * half) / 2)
    axes.set_xlim(-0.6, len(series.values) - 0.4)
    axes.locator_params(axis="y", nbins=4)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.grid(visible=False, axis="x")
    label = shortened(series.setting.label, _LONGEST_LABEL)
    axes.set_title(label, fontsize=8.5, fontweight="normal")


def _data(shown: History) -> dict[str, Any]:
    names = shown.versions
    findings = sentences(
        "history_findings", versions=len(names), shortest=SHORTEST,
        settings=len({id(series.setting) for series in shown.series}), changes=len(shown.changes),
        changed=len({id(change.series.setting) for change in shown.changes}), most=_MOST_FINDINGS,
        events=_events(shown),
    )  # fmt: skip
    return {
        "findings": findings,
        "group": title(shown.group),
        "reference": shown.reference.label,
        "versions": [{"version": v, "started_at": shown.started_at[v]} for v in names],
        "not_comparable": list(shown.left_out),
        "changes": [
            {
                **_named(change.series), "since": names[change.at], "before": change.before,
                "after": change.after, "effect": change.effect,
            }
            for change in shown.changes
        ],
        "series": [
            {
                **_named(series), "values": series.values,
                "segments": [
                    {"since": names[one.start], "median": one.median} for one in series.segments
                ],
            }
            for series in shown.series
        ],
    }  # fmt: skip


def _named(series: Series) -> dict[str, Any]:
    return {
        "setting": series.setting.label, "measure": series.measure.column,
        "absolute": series.is_reference,
    }  # fmt: skip
