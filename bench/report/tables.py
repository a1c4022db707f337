"""Tables of the report: a group's rows as frames for figures, and as text for the pages."""

from collections.abc import Sequence
from dataclasses import dataclass, field
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
"""Settings in a figure; each is 0.5 KB in the page, in up to ten figures."""
MOST_SETTINGS: Final = 500
"""Settings in a table."""
_MOST_RATES: Final = 12
_OF_SCORES: Final = 3
"""Figures of a setting that are of its score, before those of its costs."""


@dataclass(frozen=True)
class Head:
    """A column's heading: its key, its text, what it means, and whether it holds numbers."""

    key: str
    text: str
    about: str = ""
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table as text, with a caption; `marks` names a class for each row.

    A folded one opens on demand, where the page can do that. `total` is the number of rows that
    there are, where they are more than it has.
    """

    heads: Sequence[Head]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    marks: Sequence[str] = field(default=())
    folded: bool = False
    total: int = 0


def kind(setting: Setting) -> str:
    """A setting's mode and layer set, and whether it unfreezes, without rank and AMP."""
    unfreezing = " unfreezing" if setting.unfreezes else ""
    return (
        f"{setting.mode} {setting.layers}{unfreezing}"
        if setting.layers
        else f"{setting.mode}{unfreezing}"
    )


def line(setting: Setting) -> str:
    """What settings share that differ in layer set and rate alone."""
    rank = "" if setting.rank is None else f" r{setting.rank}"
    unfreezing = " unfreezing" if setting.unfreezes else ""
    amp = "" if setting.amp == "off" else f" {setting.amp}"
    return f"{setting.mode}{rank}{unfreezing}{amp}"


def drawn(group: Group) -> Sequence[Setting]:
    """The settings that figures show: all, or of very many those on a front and some others."""
    if len(group.settings) <= MOST_DRAWN:
        return group.settings
    wanted = {id(setting) for cost in COSTS for setting in pareto(group, cost)[: MOST_DRAWN // 4]}
    wanted.add(id(group.baseline))
    others = [setting for setting in group.settings if id(setting) not in wanted]
    wanted.update(map(id, others[:: ceil(len(others) / (MOST_DRAWN - len(wanted)))]))
    return [setting for setting in group.settings if id(setting) in wanted]


def places(group: Group) -> dict[Objective, dict[int, int]]:
    """For each cost the numbers of the settings on its Pareto front, by their id."""
    return {
        cost: {id(setting): i for i, setting in enumerate(pareto(group, cost), start=1)}
        for cost in COSTS
    }


def frame(group: Group) -> pd.DataFrame:
    """A row for each setting drawn: axes, score with its interval, memory, time, place on the
    fronts, and whether no other rate of the same setting scores higher (`best`)."""
    fronts = places(group)
    usual = set(map(id, group.usual))
    records = []
    for setting in drawn(group):
        memory, time, score = (
            setting.estimate(column(group, objective)) for objective in OBJECTIVES
        )
        ends = (score.ends() if score else None) or (None, None)
        records.append({
            "label": setting.label, "kind": kind(setting), "line": line(setting),
            "mode": setting.mode,
            "rank": setting.rank, "layers": setting.layers, "amp": setting.amp,
            "unfreezes": setting.unfreezes, "baseline": setting is group.baseline,
            "rate": setting.rate, "tells_rate": setting.tells_rate,
            "frozen": setting.frozen, "usual": id(setting) in usual,
            "score": score.value if score else None, "low": ends[0], "high": ends[1],
            "memory": memory.value if memory else None, "time": time.value if time else None,
            "front_memory": fronts["memory"].get(id(setting), 0),
            "front_time": fronts["time"].get(id(setting), 0),
        })  # fmt: skip
    floats = ("score", "low", "high", "memory", "time", "rate")
    found = pd.DataFrame(records).astype(dict.fromkeys(floats, "float64"))
    alike = found.groupby(["mode", "rank", "layers", "amp", "unfreezes", "frozen"], dropna=False)
    rising = not group.scoring.higher_is_better
    place = alike["score"].transform(lambda part: part.rank(method="first", ascending=rising))
    return found.assign(best=place == 1)


def amp_frame(group: Group, cost: Objective) -> pd.DataFrame:
    """A row for each setting that ran with AMP: its cost against the same without, by rank."""
    found = amp_ratios(group, cost)[:MOST_DRAWN]
    ranks = sorted({setting.rank or 0 for setting, _ in found if setting.rank})
    place = {rank: 0.5 * ((i + 0.5) / len(ranks) - 0.5) for i, rank in enumerate(ranks)}
    return pd.DataFrame([
        {
            "kind": kind(setting), "mode": setting.mode, "amp": setting.amp, "value": gap.value,
            "low": gap.low if gap.low is not None else gap.value,
            "high": gap.high if gap.high is not None else gap.value,
            "offset": place.get(setting.rank or 0, 0.0),
        }
        for setting, gap in found
    ])  # fmt: skip


def front_table(group: Group) -> Table:
    """The settings on either Pareto front, with their numbers in the figures."""
    fronts = places(group)
    on_one = [s for s in group.settings if any(id(s) in front for front in fronts.values())]
    last = len(on_one) + 1
    on_one.sort(key=lambda s: tuple(fronts[cost].get(id(s), last) for cost in COSTS))
    rows = [
        [
            setting.label,
            *(str(fronts[cost].get(id(setting), DASH)) for cost in COSTS),
            *_figures(group, setting),
        ]
        for setting in on_one[:MOST_SETTINGS]
    ]
    heads = [
        Head("setting", "setting"),
        Head("by_memory", "no. by memory", "its number in the picture of memory", True),
        Head("by_time", "no. by time", "its number in the picture of time", True),
        *_figure_heads(group),
    ]
    caption = "The settings on a Pareto front, from least memory up."
    return Table(heads, rows, caption, total=len(on_one))


def _figure_heads(group: Group) -> list[Head]:
    memory, time = column(group, "memory"), column(group, "time")
    heads = [
        Head("dev_score", "dev score", about("dev_score"), True),
        Head("dev_interval", "95% interval", "of the dev score"),
        Head("to_full", "to full", "dev score less that of full fine-tuning in fp32, its interval"),
        Head("memory", MEMORY[memory], about(memory), True),
        Head("memory_ratio", "× full", "memory against full fine-tuning in fp32", True),
        Head("time", TIME[time], about(time), True),
        Head("time_ratio", "× full", "time against full fine-tuning in fp32", True),
    ]
    return heads if group.has_quality else heads[_OF_SCORES:]


def _figures(group: Group, setting: Setting) -> list[str]:
    score = setting.estimate("dev_score")
    ends = span(score) if score else ""
    fields = [
        fixed(score.value) if score else "not measured",
        ends or DASH,
        _to_full(group, setting),
    ]
    for cost in COSTS:
        value = setting.estimate(column(group, cost))
        fields.append(num(value.value if value else None))
        against = compare(group, cost, setting, group.baseline) if group.baseline else None
        fields.append(times(against.value) if against else DASH)
    return fields if group.has_quality else fields[_OF_SCORES:]


def _to_full(group: Group, setting: Setting) -> str:
    """The difference of scores to the baseline, with its interval."""
    base = group.baseline
    gap = None if base in (None, setting) else compare(group, "score", setting, base)
    if gap is None:
        return DASH
    ends = span(gap, signed)
    return signed(gap.value) + (f" ({ends})" if ends else "")


def settings_table(group: Group) -> Table:
    """Every setting over its seeds, against full fine-tuning in fp32."""
    heads = [
        Head("mode", "mode", about("mode")),
        Head("rank", "rank", about("rank"), True),
        Head("layers", "layers", about("layers")),
        Head("amp", "AMP", about("amp")),
        Head("ok", "ok", "runs that ended ok, of those that ran or are planned"),
        *_figure_heads(group),
    ]
    unfreezes = any(setting.unfreezes for setting in group.settings)
    rates = any(setting.tells_rate for setting in group.settings)
    frozen = any(setting.tells_frozen for setting in group.settings)
    further = [Head("frozen_dtype", "frozen", about("frozen_dtype"))] if frozen else []
    further += [Head("unfreeze", "unfreezing", about("unfreeze"))] if unfreezes else []
    further += [Head("rate", "rate", about("learning_rate"), True)] if rates else []
    heads[4:4] = further
    rows = []
    for setting in group.settings[:MOST_SETTINGS]:
        rank = DASH if setting.rank is None else str(setting.rank)
        row = [setting.mode, rank, setting.layers or DASH, setting.amp]
        if frozen:
            row.append(setting.frozen or DASH)
        if unfreezes:
            row.append(setting.unfreeze or DASH)
        if rates:
            row.append(f"{setting.rate:g}" if setting.rate is not None else DASH)
        row.append(f"{len(setting.ok)}/{len(setting.rows)}")
        rows.append([*row, *_figures(group, setting)])
    marks = ["baseline" if s is group.baseline else "" for s in group.settings[:MOST_SETTINGS]]
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


_UNSET: Final = {"max_train": "all", "max_dev": "all", "max_steps": "no cap"}


def conditions_table(group: Group) -> Table:
    """Conditions and settings that a group's cells share, and the rates of its modes."""
    names = [
        n
        for n in ("conditions_id", *group_names("conditions"), *group_names("settings"))
        if n not in ("learning_rate", "learning_rate_base", "learning_rate_head", "scale")
    ]
    rows = []
    for key in names:
        # What varies inside a group (the code's version) is listed, not averaged.
        values = list(dict.fromkeys(str(v) for r in group.rows if (v := r.get(key)) is not None))
        text = ", ".join(values[:6]) + (", …" if len(values) > 6 else "")
        if not text:
            applies = BY_NAME[key].applies(group.first)
            text = _UNSET.get(key, "not recorded") if applies else DASH
        rows.append([key, text, about(key)])
    rows += [[f"{column} in {mode}", text, about(column)] for column, mode, text in _rates(group)]
    return Table([Head("name", "name"), Head("value", "value"), Head("about", "meaning")], rows)


def _rates(group: Group) -> list[tuple[str, str, str]]:
    found = []
    for mode in dict.fromkeys(setting.mode for setting in group.settings):
        of = [row for row in group.rows if row.get("mode") == mode]
        for column_ in ("learning_rate", "learning_rate_base", "learning_rate_head"):
            values = sorted({v for row in of if (v := number(row.get(column_))) is not None})
            if values:
                told = ", ".join(f"{value:g}" for value in values[:_MOST_RATES])
                more = ", …" if len(values) > _MOST_RATES else ""
                found.append((column_, mode, told + more))
    return found
