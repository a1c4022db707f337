"""Tables of the report: a group's rows as frames for figures, and as text for the pages."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import pandas as pd

from bench.groups import Group, Setting, about, number
from bench.report.findings import failures_heading, status_meaning
from bench.report.text import (
    MEMORY,
    TIME,
    fixed,
    num,
    span,
    times,
    without_paths,
)
from bench.schema import BY_NAME, FLAGS, Row, Value, group_names
from bench.verdicts import AIMS, COSTS, Aim, amp_ratios, column, compare, effects, pareto

DASH: Final = "–"


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

    A folded one opens on demand, where the page can do that.
    """

    heads: Sequence[Head]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    marks: Sequence[str] = field(default=())
    folded: bool = False


def kind(setting: Setting) -> str:
    """A setting's mode and layer set, without rank and AMP."""
    return f"{setting.mode} {setting.layers}" if setting.layers else setting.mode


def frame(group: Group) -> pd.DataFrame:
    """A row for each setting: axes, score with its interval, memory, time, place on the fronts."""
    fronts = {
        cost: {id(setting): i for i, setting in enumerate(pareto(group, cost), start=1)}
        for cost in COSTS
    }
    records = []
    for setting in group.settings:
        memory, time, score = (setting.estimate(column(group, aim)) for aim in AIMS)
        ends = (score.ends() if score else None) or (None, None)
        records.append({
            "label": setting.label, "kind": kind(setting), "mode": setting.mode,
            "rank": setting.rank, "layers": setting.layers, "amp": setting.amp,
            "baseline": setting is group.baseline,
            "score": score.value if score else None, "low": ends[0], "high": ends[1],
            "memory": memory.value if memory else None, "time": time.value if time else None,
            "front_memory": fronts["memory"].get(id(setting), 0),
            "front_time": fronts["time"].get(id(setting), 0),
        })  # fmt: skip
    floats = ("score", "low", "high", "memory", "time")
    return pd.DataFrame(records).astype(dict.fromkeys(floats, "float64"))


def amp_frame(group: Group, cost: Aim) -> pd.DataFrame:
    """A row for each setting that ran with AMP: its cost against the same without, by rank."""
    found = amp_ratios(group, cost)
    ranks = sorted({setting.rank or 0 for setting, _ in found if setting.rank})
    place = {rank: 0.5 * ((i + 0.5) / len(ranks) - 0.5) for i, rank in enumerate(ranks)}
    return pd.DataFrame([
        {
            "kind": kind(setting), "mode": setting.mode, "amp": setting.amp, "ratio": gap.value,
            "low": gap.low if gap.low is not None else gap.value,
            "high": gap.high if gap.high is not None else gap.value,
            "offset": place.get(setting.rank or 0, 0.0),
        }
        for setting, gap in found
    ])  # fmt: skip


def front_table(group: Group) -> Table:
    """The settings on either Pareto front, with their numbers in the figures."""
    costs = {cost: pareto(group, cost) for cost in COSTS}
    rows = []
    for setting in group.settings:
        places = [
            str(next((i for i, s in enumerate(costs[cost], 1) if s is setting), "")) or DASH
            for cost in COSTS
        ]
        if any(place != DASH for place in places):
            rows.append([setting.label, *places, *_figures(group, setting)])
    rows.sort(key=lambda row: (row[1] == DASH, int(row[1]) if row[1] != DASH else int(row[2])))
    heads = [
        Head("setting", "setting"),
        Head("by_memory", "no. by memory", "its number in the picture of memory", True),
        Head("by_time", "no. by time", "its number in the picture of time", True),
        *_figure_heads(group),
    ]
    return Table(heads, rows, "The settings on a Pareto front, from least memory up.")


def _figure_heads(group: Group) -> list[Head]:
    memory, time = column(group, "memory"), column(group, "time")
    heads = [
        Head("dev_score", "dev score", about("dev_score"), True),
        Head("dev_interval", "95% interval", "of the dev score"),
        Head("memory", MEMORY[memory], about(memory), True),
        Head("memory_ratio", "× full", "memory against full fine-tuning in fp32", True),
        Head("time", TIME[time], about(time), True),
        Head("time_ratio", "× full", "time against full fine-tuning in fp32", True),
    ]
    return heads if group.has_quality else heads[2:]


def _figures(group: Group, setting: Setting) -> list[str]:
    score = setting.estimate("dev_score")
    fields = [fixed(score.value) if score else "not measured", span(score) if score else ""]
    fields[1] = fields[1] or DASH
    for cost in COSTS:
        value = setting.estimate(column(group, cost))
        fields.append(num(value.value if value else None))
        against = compare(group, cost, setting, group.baseline) if group.baseline else None
        fields.append(times(against.value) if against else DASH)
    return fields if group.has_quality else fields[2:]


def settings_table(group: Group) -> Table:
    """Every setting over its seeds, against full fine-tuning in fp32."""
    heads = [
        Head("mode", "mode", about("mode")),
        Head("rank", "rank", about("rank"), True),
        Head("layers", "layers", about("layers")),
        Head("amp", "AMP", about("amp")),
        Head("ok", "ok", "seeds that ended ok, of those planned"),
        *_figure_heads(group),
    ]
    if any(setting.tells_rate for setting in group.settings):
        heads.insert(4, Head("rate", "rate", about("learning_rate"), True))
    rows = []
    for setting in group.settings:
        rank = DASH if setting.rank is None else str(setting.rank)
        row = [setting.mode, rank, setting.layers or DASH, setting.amp]
        if len(heads) > 5 and heads[4].key == "rate":
            row.append(f"{setting.rate:g}" if setting.rate is not None else DASH)
        row.append(f"{len(setting.ok)}/{len(setting.rows)}")
        rows.append([*row, *_figures(group, setting)])
    marks = ["baseline" if s is group.baseline else "" for s in group.settings]
    caption = "Every setting against full fine-tuning in fp32, its seeds averaged."
    return Table(heads, rows, caption, marks, folded=True)


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


_CELL_COLUMNS: Final = (
    "mode", "rank", "layers", "amp", "seed", "status", "flags", "dev_score", "dev_ci_low",
    "dev_ci_high", "majority_score", "peak_cuda_allocated_mib", "peak_cuda_reserved_mib",
    "peak_rss_mib", "ms_per_1k_tokens", "step_ms_median", "params_trainable", "learning_rate",
    "train_s", "wall_s", "attempt", "cell_id",
)  # fmt: skip
_CELL_TITLES: Final = {
    "dev_score": "dev score", "dev_ci_low": "95% from", "dev_ci_high": "to",
    "majority_score": "majority", "peak_cuda_allocated_mib": "CUDA allocated, MiB",
    "peak_cuda_reserved_mib": "CUDA reserved, MiB", "peak_rss_mib": "RSS, MiB",
    "ms_per_1k_tokens": "ms / 1k tokens", "step_ms_median": "step, ms",
    "params_trainable": "trainable", "learning_rate": "rate", "train_s": "training, s",
    "wall_s": "wall, s", "cell_id": "cell", "amp": "AMP",
}  # fmt: skip


def cells_table(found: Sequence[Group]) -> Table:
    """Every cell of every group; columns of a card are left out where there was none."""
    rows = [row for group in found for row in group.ordered]
    axes = group_names("axes")
    names = [n for n in _CELL_COLUMNS if n in axes or any(BY_NAME[n].applies(r) for r in rows)]
    heads = [Head(n, _CELL_TITLES.get(n, n), about(n), BY_NAME[n].kind is not str) for n in names]
    if len(found) > 1:
        heads.insert(0, Head("group", "group", "number of its group, the first being 1", True))
    body = [
        [str(i)] * (len(found) > 1) + [shown(row, name) for name in names]
        for i, group in enumerate(found, 1) for row in group.ordered
    ]  # fmt: skip
    return Table(heads, body, marks=["" if r.get("status") == "ok" else "failed" for r in rows])


_INPUTS: Final = (*group_names("axes"), *group_names("settings"), *group_names("identity"))


def shown(row: Row, name: str) -> str:
    """A field as the tables show it: what does not apply differs from what was not measured."""
    value = row.get(name)
    if name == "status":
        return str(value or "not run")
    if value is not None:
        return _formatted(name, value)
    if not BY_NAME[name].applies(row) or name in _INPUTS:
        return DASH
    return "not run" if row.get("status") is None else "not measured"


def _formatted(name: str, value: Value) -> str:
    if isinstance(value, float):
        if name in group_names("quality"):
            return fixed(value)
        return f"{value:g}" if name in group_names("settings") else num(value)
    if isinstance(value, int) and name.startswith("params_"):
        return f"{value:,}"
    return str(value)


def failures_table(rows: Sequence[Row]) -> tuple[str, Table]:
    """A heading, and the cells that ended badly or are flagged, with their messages.

    Cells that were only not run yet are counted in the heading and not listed.
    """
    bad = [row for row in rows if row.get("status") not in ("ok", None) or row.get("flags")]
    heads = [
        Head("cell", "cell"), Head("status", "status"), Head("why", "message, or what it means"),
    ]  # fmt: skip
    body = [[name(row), _status(row), why(row)] for row in bad]
    return failures_heading(list(rows)), Table(heads, body)


def name(row: Row) -> str:
    """A cell's name for people."""
    adapter = f" r{row.get('rank')} {row.get('layers')}" if row.get("rank") is not None else ""
    amp = "fp32" if row.get("amp") in ("off", None) else row.get("amp")
    return f"{row.get('mode')}{adapter} {amp}, seed {row.get('seed')}"


def _status(row: Row) -> str:
    return " ".join(str(row[key]) for key in ("status", "flags") if row.get(key))


def why(row: Row) -> str:
    """A failed cell's message, and what its status and flags mean."""
    flags = [FLAGS[flag] for flag in str(row.get("flags") or "").split() if flag in FLAGS]
    meanings = flags if row.get("status") == "ok" else [status_meaning(str(row["status"])), *flags]
    message = without_paths(" ".join(str(row.get("message") or "").split()))
    return f"{message} ({'; '.join(meanings)})" if message else "; ".join(meanings)


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
                found.append((column_, mode, ", ".join(f"{value:g}" for value in values)))
    return found
