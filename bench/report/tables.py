"""A group's settings as frames for figures, and as tables of text for the pages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

import pandas as pd

from bench.analysis.effects import amp_ratios, effects
from bench.analysis.groups import Group, about
from bench.analysis.setting import Setting, number
from bench.analysis.verdicts import COSTS, OBJECTIVES, Objective, column, compare, pareto
from bench.plan.columns import BY_NAME, group_names
from bench.report.text import MEMORY, TIME, fixed, num, signed, span, times

DASH: Final = "–"
MOST_DRAWN: Final = 400
"""Settings in a figure; each takes 0.5 KB of the page, in up to ten figures."""
MOST_SETTINGS: Final = 500
"""Settings in a table."""
_MOST_RATES: Final = 12
_SCORE_COLUMNS: Final = 3
"""Columns of a setting's score, which stand before those of its costs."""


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
    """A setting's mode, layer set and unfreezing, without rank and AMP."""
    layers = f" {setting.layers}" if setting.layers else ""
    return f"{setting.mode}{layers}{' unfreezing' if setting.unfreezes else ''}"


def line(setting: Setting) -> str:
    """A setting's mode, rank, unfreezing and AMP, without layer set and rate."""
    rank = "" if setting.rank is None else f" r{setting.rank}"
    unfreezing = " unfreezing" if setting.unfreezes else ""
    amp = "" if setting.amp == "off" else f" {setting.amp}"
    return f"{setting.mode}{rank}{unfreezing}{amp}"


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
        memory, time, score = (
            setting.estimate(column(group, objective)) for objective in OBJECTIVES
        )
        low, high = (score.ends() if score else None) or (None, None)
        records.append({
            "label": setting.label, "kind": kind(setting), "line": line(setting),
            "mode": setting.mode,
            "rank": setting.rank, "layers": setting.layers, "amp": setting.amp,
            "unfreezes": setting.unfreezes, "baseline": setting is group.baseline,
            "rate": setting.rate, "several_rates": setting.tells_rate,
            "frozen": setting.frozen, "usual": id(setting) in usual,
            "score": score.value if score else None, "low": low, "high": high,
            "memory": memory.value if memory else None, "time": time.value if time else None,
            "front_memory": fronts["memory"].get(id(setting), 0),
            "front_time": fronts["time"].get(id(setting), 0),
        })  # fmt: skip
    floats = ("score", "low", "high", "memory", "time", "rate")
    settings = pd.DataFrame(records).astype(dict.fromkeys(floats, "float64"))
    alike = settings.groupby(["mode", "rank", "layers", "amp", "unfreezes", "frozen"], dropna=False)
    rising = not group.scoring.higher_is_better
    place = alike["score"].transform(lambda part: part.rank(method="first", ascending=rising))
    return settings.assign(best=place == 1)


def amp_frame(group: Group, cost: Objective) -> pd.DataFrame:
    """A row for each setting that ran with AMP: its cost against that without, by rank."""
    ratios = amp_ratios(group, cost)[:MOST_DRAWN]
    ranks = sorted({setting.rank or 0 for setting, _ in ratios if setting.rank})
    place = {rank: 0.5 * ((i + 0.5) / len(ranks) - 0.5) for i, rank in enumerate(ranks)}
    return pd.DataFrame([
        {
            "kind": kind(setting), "mode": setting.mode, "amp": setting.amp, "value": gap.value,
            "low": gap.low if gap.low is not None else gap.value,
            "high": gap.high if gap.high is not None else gap.value,
            "offset": place.get(setting.rank or 0, 0.0),
        }
        for setting, gap in ratios
    ])  # fmt: skip


def front_table(group: Group) -> Table:
    """The settings on either Pareto front, with their numbers in the figures."""
    fronts = places(group)
    on_front = [s for s in group.settings if any(id(s) in front for front in fronts.values())]
    last = len(on_front) + 1
    on_front.sort(key=lambda s: tuple(fronts[cost].get(id(s), last) for cost in COSTS))
    rows = [
        [
            setting.label,
            *(str(fronts[cost].get(id(setting), DASH)) for cost in COSTS),
            *_results(group, setting),
        ]
        for setting in on_front[:MOST_SETTINGS]
    ]
    heads = [
        Head("setting", "setting"),
        Head("by_memory", "no. by memory", "its number in the figure of memory", True),
        Head("by_time", "no. by time", "its number in the figure of time", True),
        *_result_heads(group),
    ]
    caption = "The settings on a Pareto front, by increasing memory."
    return Table(heads, rows, caption, total=len(on_front))


def _result_heads(group: Group) -> list[Head]:
    memory, time = column(group, "memory"), column(group, "time")
    heads = [
        Head("dev_score", "dev score", about("dev_score"), True),
        Head("dev_interval", "95% interval", "of the dev score"),
        Head(
            "to_full",
            "to full",
            "dev score minus that of full fine-tuning in fp32, with the interval",
        ),
        Head("memory", MEMORY[memory], about(memory), True),
        Head("memory_ratio", "× full", "memory against full fine-tuning in fp32", True),
        Head("time", TIME[time], about(time), True),
        Head("time_ratio", "× full", "time against full fine-tuning in fp32", True),
    ]
    return heads if group.has_quality else heads[_SCORE_COLUMNS:]


def _results(group: Group, setting: Setting) -> list[str]:
    score = setting.estimate("dev_score")
    fields = [
        fixed(score.value) if score else "not measured",
        (score and span(score)) or DASH,
        _to_full(group, setting),
    ]
    for cost in COSTS:
        value = setting.estimate(column(group, cost))
        fields.append(num(value.value if value else None))
        against = compare(group, cost, setting, group.baseline) if group.baseline else None
        fields.append(times(against.value) if against else DASH)
    return fields if group.has_quality else fields[_SCORE_COLUMNS:]


def _to_full(group: Group, setting: Setting) -> str:
    """The difference of scores from the baseline, with its interval."""
    base = group.baseline
    gap = None if base in (None, setting) else compare(group, "score", setting, base)
    if gap is None:
        return DASH
    ends = span(gap, signed)
    return signed(gap.value) + (f" ({ends})" if ends else "")


def settings_table(group: Group) -> Table:
    """Every setting, averaged over its seeds, against full fine-tuning in fp32."""
    settings = group.settings[:MOST_SETTINGS]
    columns: list[tuple[Head, Callable[[Setting], object]]] = [
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
    heads = [*(head for head, _ in columns), ok, *_result_heads(group)]
    rows = [
        [
            *(DASH if (value := field(s)) in (None, "") else str(value) for _, field in columns),
            f"{len(s.ok)}/{len(s.rows)}", *_results(group, s),
        ]
        for s in settings
    ]  # fmt: skip
    marks = ["baseline" if s is group.baseline else "" for s in settings]
    caption = "Every setting against full fine-tuning in fp32, its seeds averaged."
    return Table(heads, rows, caption, marks, folded=True, total=len(group.settings))


def effects_table(group: Group) -> Table | None:
    """AMP alone, the adapter alone, and both, against full fine-tuning in fp32."""
    rows = [
        [
            cost, e.mode, e.layers, e.amp, str(e.ranks), f"{e.amp_alone:.2f}",
            f"{e.adapter_alone:.2f}", f"{e.both:.2f}", f"{e.product:.2f}",
        ]
        for cost in COSTS for e in effects(group, cost)
    ]  # fmt: skip
    if not rows:
        return None
    heads = [
        Head("cost", "cost"), Head("mode", "mode"), Head("layers", "layers"), Head("amp", "AMP"),
        Head("ranks", "ranks", "ranks averaged", True),
        Head("amp_alone", "AMP alone", "full fine-tuning with AMP, against fp32", True),
        Head("adapter_alone", "adapter alone", "the adapter in fp32", True),
        Head("both", "both", "the adapter with AMP", True),
        Head("product", "if independent", "AMP alone times adapter alone", True),
    ]  # fmt: skip
    caption = "Ratios to full fine-tuning in fp32, the geometric mean over ranks."
    return Table(heads, rows, caption)


_RATES: Final = ("learning_rate", "learning_rate_base", "learning_rate_head")
_UNSET: Final = {"max_train": "all", "max_dev": "all", "max_steps": "no cap"}


def conditions_table(group: Group) -> Table:
    """The conditions and settings that a group's cells share, and the rates of its modes."""
    names = [
        n
        for n in ("conditions_id", *group_names("conditions"), *group_names("settings"))
        if n not in (*_RATES, "scale")
    ]
    rows = []
    for key in names:
        # Values that vary within a group, such as the code's version, are listed.
        values = list(dict.fromkeys(str(v) for r in group.rows if (v := r[key]) is not None))
        text = ", ".join(values[:6]) + (", …" if len(values) > 6 else "")
        if not text:
            applies = BY_NAME[key].applies_to(group.first)
            text = _UNSET.get(key, "not recorded") if applies else DASH
        rows.append([key, text, about(key)])
    rows += [[f"{column} in {mode}", text, about(column)] for column, mode, text in _rates(group)]
    return Table([Head("name", "name"), Head("value", "value"), Head("about", "meaning")], rows)


def _rates(group: Group) -> list[tuple[str, str, str]]:
    """Columns of learning rates, modes, and the rates of each as text."""
    rates = []
    for mode in dict.fromkeys(setting.mode for setting in group.settings):
        rows = [row for row in group.rows if row.mode == mode]
        for name in _RATES:
            values = sorted({v for row in rows if (v := number(row[name])) is not None})
            if values:
                text = ", ".join(f"{value:g}" for value in values[:_MOST_RATES])
                rates.append((name, mode, text + (", …" if len(values) > _MOST_RATES else "")))
    return rates
