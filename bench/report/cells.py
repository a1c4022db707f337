"""The tables of single cells: every cell, as far as a page can bear it, and those that failed."""

from collections.abc import Callable, Sequence
from typing import Final

from bench.analysis.groups import CHANGED, Group, about
from bench.plan.budget import was_left_out
from bench.plan.cell import ABOUT, Row, Value
from bench.plan.columns import BY_NAME, FLAGS, group_names
from bench.report.findings import failures_heading, status_meaning
from bench.report.tables import DASH, Head, Table
from bench.report.text import count, fixed, num, one_of, without_paths
from bench.results.overhead import overhead_s

MOST_CELLS: Final = 3000
"""In a page: about 2 MB, which opens at once."""
MOST_OF_A_GROUP: Final = 1000
MOST_FAILURES: Final = 500

_OVERHEAD: Final = "overhead_s"
"""No column of runs.csv: it follows from others."""
_COLUMNS: Final = (
    "mode", "rank", "layers", "unfreeze", "amp", "seed", "status", "flags", "dev_score",
    "dev_ci_low", "dev_ci_high", "dev_sentiment", "dev_paraphrase", "dev_similarity",
    "majority_score", "peak_cuda_allocated_mib",
    "peak_cuda_reserved_mib", "peak_rss_mib", "ms_per_1k_tokens", "step_ms_median",
    "params_trainable", "learning_rate",
    "train_s", "wall_s", _OVERHEAD, "attempt", "cell_id",
)  # fmt: skip
_TITLES: Final = {
    "dev_score": "dev score", "dev_ci_low": "95% from", "dev_ci_high": "to",
    "dev_sentiment": "sentiment", "dev_paraphrase": "paraphrase",
    "dev_similarity": "similarity", "majority_score": "majority",
    "peak_cuda_allocated_mib": "CUDA allocated, MiB",
    "peak_cuda_reserved_mib": "CUDA reserved, MiB", "peak_rss_mib": "RSS, MiB",
    "ms_per_1k_tokens": "ms / 1k tokens", "step_ms_median": "step, ms",
    "params_trainable": "trainable", "learning_rate": "rate", "train_s": "training, s",
    "wall_s": "wall, s", _OVERHEAD: "overhead, s", "cell_id": "cell", "amp": "AMP",
    "unfreeze": "unfreezing", "batch_size": "batch", "frozen_dtype": "frozen",
    "code_version": "code",
}  # fmt: skip
_APART: Final = {
    **{name: about.short for name, about in ABOUT.items() if about.short},
    "repeat": "repeat {}",
    "code_version": "{}",
}
"""What tells cells of the same name apart, and how that is said."""
_RUNS: Final = ("repeat", "code_version")
"""What tells runs of the same cell apart."""
_AXES: Final = frozenset(group_names("axes"))
_SETTINGS: Final = frozenset(group_names("settings"))
_QUALITY: Final = frozenset(group_names("quality"))
_INPUTS: Final = _AXES | _SETTINGS | frozenset(group_names("identity"))


def cells_table(found: Sequence[Group]) -> Table:
    """The cells of every group, of large groups and of many the first.

    Columns of a GPU are left out where there was none, and unfreezing where nothing did.
    """
    chosen: list[tuple[int, Row]] = []
    for number, group in enumerate(found, start=1):
        room = min(MOST_OF_A_GROUP, MOST_CELLS - len(chosen))
        chosen += [(number, row) for row in group.ordered[:room]]
    unfreezes = any(row.get("unfreeze") not in (None, "all") for _, row in chosen)
    columns = _early_columns(found)
    names = [
        n for n in columns if n != "unfreeze" or unfreezes
        if n in _AXES or n == _OVERHEAD or any(BY_NAME[n].applies(r) for _, r in chosen)
    ]  # fmt: skip
    heads = [_head(name) for name in names]
    if len(found) > 1:
        heads.insert(0, Head("group", "group", "number of its group, the first being 1", True))
    body = [
        [str(number)] * (len(found) > 1) + [shown(row, name) for name in names]
        for number, row in chosen
    ]
    marks = ["" if row.get("status") == "ok" else "failed" for _, row in chosen]
    return Table(heads, body, marks=marks, total=sum(len(group.rows) for group in found))


def _early_columns(found: Sequence[Group]) -> list[str]:
    """The columns, with settings and rates that tell cells apart beside the axes."""
    early = [name for name in CHANGED if len({group.shared(name) for group in found}) > 1]
    if any(setting.tells_rate for group in found for setting in group.settings):
        early.append("learning_rate")
    if any(setting.tells_frozen for group in found for setting in group.settings):
        early.append("frozen_dtype")
    early += [
        name for name in _RUNS if len({r.get(name) for g in found for r in g.rows} - {None}) > 1
    ]
    names = [name for name in _COLUMNS if name not in early]
    at = names.index("seed")
    return [*names[:at], *early, *names[at:]]


def _head(name: str) -> Head:
    if name == _OVERHEAD:
        return Head(name, _TITLES[name], "wall_s without train_s and eval_s, s", True)
    return Head(name, _TITLES.get(name, name), about(name), BY_NAME[name].kind is not str)


def shown(row: Row, name: str) -> str:
    """A field as the tables show it: what does not apply differs from what was not measured."""
    value = overhead_s(row) if name == _OVERHEAD else row.get(name)
    if name == "status":
        return str(value or "not run")
    if value is not None:
        return _formatted(name, value)
    if name in _INPUTS or (name in BY_NAME and not BY_NAME[name].applies(row)):
        return DASH
    return "not run" if row.get("status") is None else "not measured"


def _formatted(name: str, value: Value) -> str:
    if isinstance(value, float):
        if name in _QUALITY:
            return fixed(value)
        return f"{value:g}" if name in _SETTINGS else num(value)
    if isinstance(value, int) and name.startswith("params_"):
        return f"{value:,}"
    return str(value)


def failures_table(rows: Sequence[Row]) -> tuple[str, Table]:
    """A heading, and the cells that ended badly or are flagged, with their messages.

    Cells that were only not run yet are counted in the heading and not listed; of those that were
    left out for a budget one stands for all.
    """
    bad = [row for row in rows if row.get("status") not in ("ok", None) or row.get("flags")]
    waiting = [row for row in bad if was_left_out(row)]
    listed = [row for row in bad if not was_left_out(row)]
    heads = [
        Head("cell", "cell"), Head("status", "status"), Head("why", "message, or what it means"),
    ]  # fmt: skip
    named = names(rows)
    first = [[_named(waiting, named), _status(waiting[0]), why(waiting[0])]] if waiting else []
    body = [[named(row), _status(row), why(row)] for row in listed[:MOST_FAILURES]]
    total = len(first) + len(listed)
    return failures_heading(list(rows)), Table(heads, first + body, total=total)


def _named(waiting: Sequence[Row], named: Callable[[Row], str]) -> str:
    """Cells that were left out, of which the first is named."""
    others, what = len(waiting) - 1, f"other {one_of(waiting)}"
    return named(waiting[0]) + (f", and {count(others, what)} left out" if others else "")


def names(rows: Sequence[Row]) -> Callable[[Row], str]:
    """What names cells for people, so that it tells them apart among some rows."""
    values: dict[tuple[str, str], set[Value]] = {}
    for row in rows:
        for column in _APART:
            values.setdefault((_name(row), column), set()).add(row.get(column))

    def named(row: Row) -> str:
        short = _name(row)
        told = [
            form.format(row[column])
            for column, form in _APART.items()
            if len(values[short, column]) > 1 and row.get(column) is not None
        ]
        return ", ".join((short, *told))

    return named


def _name(row: Row) -> str:
    rank = "" if row.get("rank") is None else f" r{row['rank']}"
    adapter = "" if row.get("layers") is None else f"{rank} {row['layers']}"
    unfreezing = " unfreezing" if row.get("unfreeze") not in (None, "all") else ""
    amp = "fp32" if row.get("amp") in ("off", None) else row.get("amp")
    return f"{row.get('mode')}{adapter}{unfreezing} {amp}, seed {row.get('seed')}"


def _status(row: Row) -> str:
    return " ".join(str(row[key]) for key in ("status", "flags") if row.get(key))


def why(row: Row) -> str:
    """A failed cell's message, and what its status and flags mean."""
    flags = [FLAGS[flag] for flag in str(row.get("flags") or "").split() if flag in FLAGS]
    meanings = flags if row.get("status") == "ok" else [status_meaning(str(row["status"])), *flags]
    message = without_paths(" ".join(str(row.get("message") or "").split()))
    return f"{message} ({'; '.join(meanings)})" if message else "; ".join(meanings)
