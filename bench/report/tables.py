"""A group's settings as frames for figures, and as tables of text for the pages."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from operator import attrgetter
from typing import Final

import pandas as pd

from bench.analysis.costs import cost_of
from bench.analysis.groups import Group, about
from bench.analysis.setting import Setting, number
from bench.analysis.verdicts import COSTS, OBJECTIVES, Objective, column, compare, pareto
from bench.plan.columns import BY_NAME, group_names
from bench.report.text import BASE, num, score, score_gap, span, times, x_label
from bench.stats.intervals import Interval

DASH: Final = "–"
MOST_DRAWN: Final = 400
"""Settings in a figure; each takes 0.5 KB of the page, in up to ten figures."""
MOST_SETTINGS: Final = 500
"""Settings in a table."""
_COPIED: Final = (
    "label", "encoder", "mode", "rank", "layers", "amp", "unfreezes", "rate", "frozen",
)  # fmt: skip
_MOST_LISTED: Final = 12
_UNKNOWN: Final = "not recorded"
_RATES: Final = ("learning_rate", "learning_rate_base", "learning_rate_head")
_UNSET: Final = {
    "max_train": "all", "max_dev": "all", "max_steps": "no cap", "folds": "none",
    "early_stopping": "none", "sharing": "none",
}  # fmt: skip

Columns = list[tuple["Head", Callable[[Setting], object]]]
"""Headings, and the value of each for a setting; a dash for None."""


@dataclass(frozen=True)
class Head:
    """A column's heading: its key, text and meaning, and whether the column holds numbers."""

    key: str
    text: str
    about: str = ""
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        marks: a CSS class for each row.
        folded: whether the HTML page shows it only on demand.
        total: the number of all rows, if only some of them are in the table.
    """

    heads: Sequence[Head]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    marks: Sequence[str] = ()
    folded: bool = False
    total: int = 0


def kind(setting: Setting) -> str:
    """A setting's mode, layer set, unfreezing and options, without rank and AMP."""
    layers = f" {setting.layers}" if setting.layers else ""
    unfreezing = " unfreezing" if setting.unfreezes else ""
    return ", ".join((f"{setting.mode}{layers}{unfreezing}", *setting.options))


def line(setting: Setting) -> str:
    """A setting's mode, rank, unfreezing, AMP and options, without layer set and rate."""
    rank = "" if setting.rank is None else f" r{setting.rank}"
    unfreezing = " unfreezing" if setting.unfreezes else ""
    amp = "" if setting.amp == "off" else f" {setting.amp}"
    return ", ".join((f"{setting.mode}{rank}{unfreezing}{amp}", *setting.options))


def drawn(group: Group) -> Sequence[Setting]:
    """The settings that figures show: all, or, of very many, those on a front and some others."""
    if len(group.settings) <= MOST_DRAWN:
        return group.settings
    ids = {id(setting) for cost in COSTS for setting in pareto(group, cost)[: MOST_DRAWN // 4]}
    ids.add(id(group.baseline))
    others = [setting for setting in group.settings if id(setting) not in ids]
    ids.update(map(id, others[:: ceil(len(others) / (MOST_DRAWN - len(ids)))]))
    return [setting for setting in group.settings if id(setting) in ids]


def places(group: Group) -> dict[Objective, dict[int, int]]:
    """For each cost, the numbers of the settings on its Pareto front by id."""
    return {
        cost: {id(setting): i for i, setting in enumerate(pareto(group, cost), start=1)}
        for cost in COSTS
    }


def frame(group: Group) -> pd.DataFrame:
    """A row for each setting drawn: axes, score with its interval, memory, time, and numbers on the
    fronts; `best` if no other rate of the same setting scores higher."""
    fronts = places(group)
    usual = set(map(id, group.usual))
    records = []
    for setting in drawn(group):
        memory, time, score = (setting.estimate(column(group, what)) for what in OBJECTIVES)
        low, high = (score.ends() if score else None) or (None, None)
        records.append({
            **{name: getattr(setting, name) for name in _COPIED},
            "kind": kind(setting), "line": line(setting), "options": ", ".join(setting.options),
            "baseline": setting is group.baseline, "several_rates": setting.tells_rate,
            "usual": id(setting) in usual,
            "score": score.value if score else None, "low": low, "high": high,
            "memory": memory.value if memory else None, "time": time.value if time else None,
            "front_memory": fronts["memory"].get(id(setting), 0),
            "front_time": fronts["time"].get(id(setting), 0),
        })  # fmt: skip
    floats = ("score", "low", "high", "memory", "time", "rate")
    settings = pd.DataFrame(records).astype(dict.fromkeys(floats, "float64"))
    names = ["mode", "rank", "layers", "amp", "unfreezes", "frozen", "options"]
    alike = settings.groupby(names, dropna=False)
    rising = not group.scoring.higher_is_better
    place = alike["score"].transform(lambda part: part.rank(method="first", ascending=rising))
    return settings.assign(best=place == 1)


def front_table(group: Group) -> Table:
    """The settings on either Pareto front, with their numbers in the figures."""
    fronts = places(group)
    on_front = [s for s in group.settings if any(id(s) in front for front in fronts.values())]
    last = len(on_front) + 1
    on_front.sort(key=lambda s: tuple(fronts[cost].get(id(s), last) for cost in COSTS))
    columns: Columns = [
        (Head("setting", "setting"), lambda s: s.label),
        (Head("by_memory", "no. by memory", "its number in the figure of memory", True),
         lambda s: fronts["memory"].get(id(s))),
        (Head("by_time", "no. by time", "its number in the figure of time", True),
         lambda s: fronts["time"].get(id(s))),
        *_result_columns(group),
    ]  # fmt: skip
    caption = "The settings on a Pareto front, by increasing memory."
    return Table(*_filled(columns, on_front), caption, total=len(on_front))


def settings_table(group: Group) -> Table:
    """Every setting, averaged over its seeds, against full fine-tuning in fp32."""
    columns: Columns = [
        (Head("mode", "mode", about("mode")), lambda s: s.mode),
        (Head("rank", "rank", about("rank"), True), lambda s: s.rank),
        (Head("layers", "layers", about("layers")), lambda s: s.layers),
        (Head("amp", "AMP", about("amp")), lambda s: s.amp),
    ]
    if any(setting.tells_frozen for setting in group.settings):
        columns.append((Head("frozen_dtype", "frozen", about("frozen_dtype")), lambda s: s.frozen))
    if any(setting.unfreezes for setting in group.settings):
        columns.append((Head("unfreeze", "unfreezing", about("unfreeze")), lambda s: s.unfreeze))
    if any(setting.tells_rate for setting in group.settings):
        head = Head("rate", "rate", about("learning_rate"), True)
        columns.append((head, lambda s: None if s.rate is None else f"{s.rate:g}"))
    ok = Head("ok", "ok", "runs that ended ok, of those that ran or are planned")
    columns += [(ok, lambda s: f"{len(s.ok)}/{len(s.rows)}"), *_result_columns(group)]
    heads, rows = _filled(columns, group.settings)
    marks = ["baseline" if s is group.baseline else "" for s in group.settings[:MOST_SETTINGS]]
    caption = "Every setting against full fine-tuning in fp32, its seeds averaged."
    if len({frozenset(s.places(group.memory_column)) for s in group.settings if s.ok}) > 1:
        caption += " Ratios are over common seeds; memory and time are those of each one's own."
    return Table(heads, rows, caption, marks, folded=True, total=len(group.settings))


def _filled(
    columns: Columns, settings: Sequence[Setting]
) -> tuple[Sequence[Head], Sequence[Sequence[str]]]:
    """The headings, and a row of texts for each of the first settings."""

    def text(value: object) -> str:
        return DASH if value in (None, "") else str(value)

    rows = [[text(field(s)) for _, field in columns] for s in settings[:MOST_SETTINGS]]
    return [head for head, _ in columns], rows


def _result_columns(group: Group) -> Columns:
    """Score and costs, and how they compare with full fine-tuning in fp32."""
    base = group.baseline

    def estimate(setting: Setting, objective: Objective) -> Interval | None:
        return setting.estimate(column(group, objective))

    def against(setting: Setting, objective: Objective) -> Interval | None:
        return compare(group, objective, setting, base) if base else None

    form, form_gap = partial(score, group), partial(score_gap, group)

    def score_text(setting: Setting) -> str:
        value = estimate(setting, "score")
        return form(value.value) if value else setting.folds_done or "not measured"

    def to_full(setting: Setting) -> str | None:
        gap = None if setting is base else against(setting, "score")
        if gap is None:
            return None
        ends = span(gap, form_gap)
        return form_gap(gap.value) + (f" ({ends})" if ends else "")

    def cost_columns(cost: Objective, unit: str) -> Columns:
        name, ratio_about = column(group, cost), f"{cost} against full fine-tuning in fp32"
        return [
            (Head(cost, unit, about(name), True),
             lambda s: num(value.value if (value := estimate(s, cost)) else None)),
            (Head(f"{cost}_ratio", "× full", ratio_about, True),
             lambda s: times(ratio.value) if (ratio := against(s, cost)) else None),
        ]  # fmt: skip

    difference = "dev score minus that of full fine-tuning in fp32, with the interval"
    scores: Columns = [
        (Head("dev_score", "dev score", about("dev_score"), True), score_text),
        (Head("dev_interval", "95% interval", "of the dev score"),
         lambda s: span(value, form) if (value := estimate(s, "score")) else None),
        (Head("to_full", "to full", difference), to_full),
    ]  # fmt: skip
    return [
        *(scores if group.has_quality else []),
        *cost_columns("memory", x_label(group, "memory")),
        *cost_columns("time", x_label(group, "time")),
        (Head("trained", "trained", about("params_trainable"), True),
         lambda s: None if (value := cost_of(group, s, "parameters")) is None else f"{value:,.0f}"),
        (Head("size", "file, MB", "what is shipped with the base model, in fp32", True),
         lambda s: None if (value := cost_of(group, s, "size")) is None else num(value)),
    ]  # fmt: skip


def kinds_table(group: Group) -> Table:
    """The settings by mode, layer set and precision: ranges over ranks, rates and the like."""
    base = group.baseline
    kinds: dict[tuple[str, str, str], list[Setting]] = {}
    for setting in group.settings:
        mode = f"{setting.mode}{' unfreezing' if setting.unfreezes else ''}"
        kinds.setdefault((mode, setting.layers or DASH, setting.precision), []).append(setting)

    def ratios(settings: Sequence[Setting], cost: Objective) -> str:
        known = (compare(group, cost, s, base) if base is not None else None for s in settings)
        return _range([ratio.value for ratio in known if ratio], times)

    def row(settings: Sequence[Setting]) -> list[str]:
        ranks = [float(s.rank) for s in settings if s.rank is not None]
        scores = [e.value for s in settings if (e := s.estimate("dev_score"))]
        sizes = [size for s in settings if (size := cost_of(group, s, "size")) is not None]
        ok = sum(bool(s.ok) for s in settings)
        return [
            _range(ranks, "{:.0f}".format),
            str(ok) if ok == len(settings) else f"{ok} of {len(settings)}",
            *([_range(scores, partial(score, group))] if group.has_quality else []),
            *([_range(sizes, num)]),
            *(ratios(settings, cost) for cost in COSTS),
        ]

    heads = [
        Head("mode", "mode"), Head("layers", "layers"), Head("precision", "precision"),
        Head("rank", "rank", numeric=True), Head("settings", "settings", numeric=True),
        *([Head("dev_score", "dev score", numeric=True)] if group.has_quality else []),
        Head("size", "file, MB", numeric=True),
        Head("memory_ratio", "× memory", numeric=True), Head("time_ratio", "× time", numeric=True),
    ]  # fmt: skip
    of = " and ".join(
        f"{num(value.value)} {'MiB' if cost == 'memory' else x_label(group, cost)}"
        for cost in COSTS
        if base and (value := base.estimate(column(group, cost)))
    )
    caption = f"× is against {BASE}{f' ({of})' if of else ''}, over the seeds that both ran with."
    return Table(heads, [[*kind, *row(s)] for kind, s in kinds.items()], caption)


def _range(values: Sequence[float], form: Callable[[float], str]) -> str:
    ends = dict.fromkeys(form(end) for end in (min(values), max(values))) if values else [DASH]
    return " to ".join(ends)


def conditions_table(group: Group) -> Table:
    """The conditions and settings that a group's cells share, and the rates of its modes."""
    rows = [[name, value, about(column)] for _, name, column, value in _conditions(group)]
    return Table([Head("name", "name"), Head("value", "value"), Head("about", "meaning")], rows)


def conditions_lines(group: Group) -> list[str]:
    """The same in a line for each kind, without what is none or was not recorded."""
    lines: dict[str, list[str]] = {}
    for kind, name, _, value in _conditions(group):
        if value not in (DASH, _UNKNOWN, "none"):
            lines.setdefault(kind, []).append(f"{name} {value}")
    return [f"{kind}: {'; '.join(pairs)}." for kind, pairs in lines.items()]


def _conditions(group: Group) -> Iterator[tuple[str, str, str, str]]:
    """The kind, name, column and value of each condition, setting and rate."""
    conditions = ("conditions_id", *group_names("conditions"))
    for name in (*conditions, *group_names("settings")):
        if name in (*_RATES, "scale"):
            continue
        # Values that vary within a group, such as the code's version, are listed.
        text = _listed(
            dict.fromkeys(str(v) for v in map(attrgetter(name), group.rows) if v is not None)
        )
        if not text:
            applies = BY_NAME[name].applies_to(group.first)
            text = _UNSET.get(name, _UNKNOWN) if applies else DASH
        yield "Conditions" if name in conditions else "Settings", name, name, text
    for mode in dict.fromkeys(setting.mode for setting in group.settings):
        members = [row for row in group.rows if row.mode == mode]
        for name in _RATES:
            rates = sorted({v for row in members if (v := number(row[name])) is not None})
            if rates:
                text = _listed([f"{rate:g}" for rate in rates])
                yield "Rates", f"{name} in {mode}", name, text


def _listed(values: Collection[str]) -> str:
    """The first values, separated by commas."""
    return ", ".join([*values][:_MOST_LISTED]) + (", …" if len(values) > _MOST_LISTED else "")
