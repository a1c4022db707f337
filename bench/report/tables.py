"""A group's settings as frames for figures, and as tables of text for pages and terminals."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from math import ceil
from operator import attrgetter, itemgetter
from types import MappingProxyType
from typing import Any, Final

import pandas as pd
from rich.table import Table as Grid

from bench.analysis.costs import cost_of
from bench.analysis.groups import Group
from bench.analysis.setting import Setting, number
from bench.analysis.verdicts import COSTS, OBJECTIVES, Objective, column, compare, pareto
from bench.common.files import read_tables
from bench.common.grouping import grouped
from bench.common.messages import as_called
from bench.common.progress import Console
from bench.plan.columns import BY_NAME, group_names
from bench.report import text
from bench.report.text import num, score, score_gap, span, times, with_span, x_label

DASH: Final = "–"
MOST_DRAWN: Final = 400  # settings in a figure; each takes 0.5 KB of the page, in up to ten figures
MOST_SETTINGS: Final = 500  # settings in a table
_COPIED: Final = (
    "label", "encoder", "mode", "rank", "layers", "amp", "unfreezes", "rate", "frozen",
)  # fmt: skip
_MOST_LISTED: Final = 12
_MOST_PRINTED: Final = 500
_WIDTH: Final = 200  # characters of a line if stdout is no terminal
_UNKNOWN: Final = "not recorded"
_RATES: Final = ("learning_rate", "learning_rate_base", "learning_rate_head")


@dataclass(frozen=True)
class Head:
    """A column's heading: its key, text and meaning, and whether the column holds numbers."""

    key: str
    text: str
    about: str = ""
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    heads: Sequence[Head]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    marks: Sequence[str] = ()  # a CSS class for each row
    folded: bool = False  # whether the HTML page shows it only on demand
    total: int = 0  # the number of all rows, if only some of them are in the table


DECLARED: Final = read_tables(__file__, "columns.toml")
"""The columns of each table in their order, with their headings."""


def table(
    name: str,
    rows: Iterable[Mapping[Any, object]],
    caption: str = "",
    marks: Sequence[str] = (),
    words: Mapping[str, str] = MappingProxyType({}),
    *,
    folded: bool = False,
    total: int = 0,
) -> Table:
    """A table with the caption and the columns that columns.toml declares under a name, those that
    its rows have. Rows have fields by column, None and NaN for a dash; `words` are what the names
    in braces in the declaration stand for."""
    rows, columns = [*rows], DECLARED[name]
    caption = caption or columns.get("caption", "")
    heads, shown = [], list[tuple[str, Callable[[object], str]]]()
    for key, head in columns.items():
        fields = {"text": head} if isinstance(head, str) else dict(head)
        field = fields.pop("of", key)
        if key != "caption" and (not rows or field in rows[0]):
            form, numeric = fields.pop("form", "{}"), bool(fields.pop("numeric", False))
            shown.append((field, form.format if "{" in form else getattr(text, form)))
            texts = {name: value.format(**words) for name, value in fields.items()}
            described = texts.get("column")
            about = BY_NAME[described].meaning if described else texts.get("about", "")
            heads.append(Head(key, texts["text"], about, numeric))
    body = [[_field(row[field], form) for field, form in shown] for row in rows]
    return Table(heads, body, caption, marks, folded, total)


def _field(value: object, form: Callable[[object], str]) -> str:
    if isinstance(value, str):
        return value
    return DASH if value is None or value != value else form(value) or DASH


def kind(setting: Setting) -> str:
    """A setting's mode, layer set, unfreezing and options, without rank and AMP."""
    return ", ".join((text.short_name(setting, "layers", "unfreeze"), *setting.options))


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
    return {cost: {id(s): i for i, s in enumerate(pareto(group, cost), start=1)} for cost in COSTS}


def frame(group: Group) -> pd.DataFrame:
    """A row for each setting drawn: axes, score with its interval, memory, time, and numbers on the
    fronts; `best` if no other rate of the same setting scores higher."""
    fronts = places(group)
    usual = set(map(id, group.usual))
    records = []
    for setting in drawn(group):
        memory, time, score = (setting.estimate(column(group, what)) for what in OBJECTIVES)
        low, high = (score.ends() if score else None) or (None, None)
        line = ("rank", "unfreeze", *(["amp"] if setting.amp != "off" else []))
        records.append({
            **{name: getattr(setting, name) for name in _COPIED},
            "kind": kind(setting), "options": ", ".join(setting.options),
            "line": ", ".join((text.short_name(setting, *line), *setting.options)),
            "baseline": setting is group.baseline, "several_rates": setting.tells_rate,
            "usual": id(setting) in usual,
            "score": score.value if score else None, "low": low, "high": high,
            "memory": memory.value if memory else None, "time": time.value if time else None,
            **{f"front_{cost}": fronts[cost].get(id(setting), 0) for cost in COSTS},
        })  # fmt: skip
    floats = ("score", "low", "high", "memory", "time", "rate")
    settings = pd.DataFrame(records).astype(dict.fromkeys(floats, "float64"))
    names = ["mode", "rank", "layers", "amp", "unfreezes", "frozen", "options"]
    gains = settings["score"] * (1 if group.scoring.higher_is_better else -1)
    order = gains.sort_values(ascending=False, kind="stable").dropna().index
    best = settings.loc[order].drop_duplicates(names).index
    return settings.assign(best=settings.index.isin(best))


def front_table(group: Group) -> Table:
    """The settings on either Pareto front, with their numbers in the figures."""
    fronts = places(group)
    on_front = [s for s in group.settings if any(id(s) in front for front in fronts.values())]
    last = len(on_front) + 1
    on_front.sort(key=lambda s: tuple(fronts[cost].get(id(s), last) for cost in COSTS))
    rows = [
        {
            "setting": s.label,
            **{f"by_{cost}": fronts[cost].get(id(s)) for cost in COSTS}, **results_of(group, s),
        }
        for s in on_front[:MOST_SETTINGS]
    ]  # fmt: skip
    caption = "The settings on a Pareto front, by increasing memory."
    return table("settings", rows, caption, words=_units(group), total=len(on_front))


def settings_table(group: Group) -> Table:
    """Every setting, averaged over its seeds, against full fine-tuning in fp32."""
    settings = group.settings
    has = {
        "frozen_dtype": any(setting.tells_frozen for setting in settings),
        "unfreeze": any(setting.unfreezes for setting in settings),
        "rate": any(setting.tells_rate for setting in settings),
    }

    def row(s: Setting) -> dict[str, object]:
        fields: dict[str, object] = {
            "mode": s.mode, "rank": s.rank, "layers": s.layers or None, "amp": s.amp,
            "frozen_dtype": s.frozen or None, "unfreeze": s.unfreeze or None,
            "rate": s.rate, "ok": f"{len(s.ok)}/{len(s.rows)}", **results_of(group, s),
        }  # fmt: skip
        return {name: value for name, value in fields.items() if has.get(name, True)}

    seeds = {frozenset(s.places(group.memory_column)) for s in settings if s.ok}
    caption = text.phrase("captions", "settings", len(seeds) > 1)
    shown = settings[:MOST_SETTINGS]
    marks = ["baseline" if s is group.baseline else "" for s in shown]
    rows, units = map(row, shown), _units(group)
    return table("settings", rows, caption, marks, units, folded=True, total=len(settings))


def _units(group: Group) -> dict[str, str]:
    columns = {f"{cost}_column": column(group, cost) for cost in COSTS}
    return columns | {f"{cost}_unit": x_label(group, cost) for cost in COSTS}


def results_of(group: Group, s: Setting) -> dict[str, object]:
    """Score and costs of a setting, and how they compare with full fine-tuning in fp32."""
    base, form = group.baseline, partial(score, group)
    estimates = {objective: s.estimate(column(group, objective)) for objective in OBJECTIVES}
    value = estimates["score"]
    gap = compare(group, "score", s, base) if base and s is not base else None
    fields: dict[str, object] = {} if not group.has_quality else {
        "dev_score": form(value.value) if value else s.folds_done or "not measured",
        "dev_interval": (span(value, form) or None) if value else None,
        "to_full": with_span(gap, partial(score_gap, group)) if gap else None,
    }  # fmt: skip
    for cost in COSTS:
        ratio = compare(group, cost, s, base) if base else None
        fields[cost] = num(known.value if (known := estimates[cost]) else None)
        fields[f"{cost}_ratio"] = ratio and ratio.value
    trained, size = (cost_of(group, s, need) for need in ("parameters", "size"))
    return fields | {"trained": trained, "size": size}


def kinds_table(group: Group) -> Table:
    """The settings by mode, layer set and precision: ranges over ranks, rates and the like."""
    base = group.baseline

    def key(setting: Setting) -> tuple[str, str, str]:
        mode = f"{setting.mode}{' unfreezing' if setting.unfreezes else ''}"
        return mode, setting.layers or DASH, setting.precision

    def ratios(settings: Sequence[Setting], cost: Objective) -> str:
        known = (compare(group, cost, s, base) if base is not None else None for s in settings)
        return _range([ratio.value for ratio in known if ratio], times)

    def row(kind: tuple[str, str, str], settings: Sequence[Setting]) -> dict[str, str]:
        ranks = [float(s.rank) for s in settings if s.rank is not None]
        scores = [e.value for s in settings if (e := s.estimate("dev_score"))]
        sizes = [size for s in settings if (size := cost_of(group, s, "size")) is not None]
        ok = sum(bool(s.ok) for s in settings)
        return {
            **dict(zip(("mode", "layers", "precision"), kind, strict=True)),
            "rank": _range(ranks, "{:.0f}".format),
            "settings": str(ok) if ok == len(settings) else f"{ok} of {len(settings)}",
            **({"dev_score": _range(scores, partial(score, group))} if group.has_quality else {}),
            "size": _range(sizes, num),
            **{f"{cost}_ratio": ratios(settings, cost) for cost in COSTS},
        }

    caption = text.phrase("captions", "kinds", group, COSTS)
    return table("kinds", starmap(row, grouped(group.settings, key).items()), caption)


def _range(values: Sequence[float], form: Callable[[float], str]) -> str:
    return text.range_of(values, form) if values else DASH


def conditions_table(group: Group) -> Table:
    """The conditions and settings that a group's cells share, and the rates of its modes."""
    return table("conditions", (
        {"name": name, "value": value, "about": BY_NAME[column].meaning}
        for _, name, column, value in _conditions(group)
    ))  # fmt: skip


def conditions_lines(group: Group) -> list[str]:
    """The same in a line for each kind, without what is none or was not recorded."""
    known = [one for one in _conditions(group) if one[-1] not in (DASH, _UNKNOWN, "none")]
    lines = grouped(known, itemgetter(0)).items()
    return [f"{kind}: {'; '.join(f'{n} {value}' for _, n, _, value in of)}." for kind, of in lines]


def _conditions(group: Group) -> Iterator[tuple[str, str, str, str]]:
    """The kind, name, column and value of each condition, setting and rate."""
    conditions = ("conditions_id", *group_names("conditions"))
    for name in (*conditions, *group_names("settings")):
        if name in (*_RATES, "scale"):
            continue
        # Values that vary within a group, such as the code's version, are listed.
        values = (str(v) for v in map(attrgetter(name), group.rows) if v is not None)
        shown = _listed(dict.fromkeys(values))
        if not shown:
            applies = BY_NAME[name].applies_to(group.first)
            shown = text.LABELS["unset"].get(name, _UNKNOWN) if applies else DASH
        yield "Conditions" if name in conditions else "Settings", name, name, shown
    for mode in dict.fromkeys(setting.mode for setting in group.settings):
        members = [row for row in group.rows if row.mode == mode]
        for name in _RATES:
            rates = sorted({v for row in members if (v := number(row[name])) is not None})
            if rates:
                yield "Rates", f"{name} in {mode}", name, _listed([f"{rate:g}" for rate in rates])


def _listed(values: Collection[str]) -> str:
    return ", ".join([*values][:_MOST_LISTED]) + (", …" if len(values) > _MOST_LISTED else "")


def print_tables(tables: Sequence[Table], lines: Sequence[str]) -> None:
    """Print the first rows of tables, each under its caption, and then lines, to stdout."""
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    for table in tables:
        grid = Grid(title=table.caption, title_justify="left", box=None)
        for head in table.heads:
            grid.add_column(
                head.text, justify="right" if head.numeric else "left", no_wrap=not head.numeric
            )
        for row in table.rows[:_MOST_PRINTED]:
            grid.add_row(*row)
        console.print(grid)
        if (more := len(table.rows) - _MOST_PRINTED) > 0:
            console.print(f"and {more:,} more")
        console.print()
    for line in lines:
        console.print(as_called(line), soft_wrap=True)
