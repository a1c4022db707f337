"""The tables of single cells: of all cells, up to what a page can hold, and of failures."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from operator import attrgetter
from typing import Final

from bench.analysis.groups import CHANGED, Group
from bench.common.grouping import grouped
from bench.plan.budget import was_left_out
from bench.plan.cell import ABOUT
from bench.plan.columns import BY_NAME, group_names
from bench.plan.rows import FLAGS, STATUSES, Row
from bench.report.pages import phrase
from bench.report.tables import DASH, DECLARED, Head, Table, table
from bench.report.text import by_metric, count, fixed, num, one_of, short_name, without_paths
from bench.results.overhead import overhead_s

MOST_CELLS: Final = 3000  # rows of the page's table of cells: about 2 MB, which open at once
MOST_OF_A_GROUP: Final = 1000
MOST_FAILURES: Final = 500

_OVERHEAD: Final = "overhead_s"  # not a column of runs.csv: it is calculated from others
_COLUMNS: Final = DECLARED["cells"]
_DISTINGUISHING: Final = {
    **{name: about.short for name, about in ABOUT.items() if about.short},
    "repeat": "repeat {}",
    "code_version": "{}",
}
"""Columns that distinguish cells of the same name, and how a name includes their value."""
_RUNS: Final = ("adapter", "repeat", "code_version")
"""Columns that are shown where rows differ in them."""
_AXES: Final = frozenset(group_names("axes"))
_SETTINGS: Final = frozenset(group_names("settings"))
_QUALITY: Final = frozenset(group_names("quality"))
_SCORES: Final = ("dev_score", "dev_ci_low", "dev_ci_high")
_INPUTS: Final = _AXES | _SETTINGS | frozenset(group_names("identity"))


def cells_table(groups: Sequence[Group]) -> Table:
    """The cells of every group; of large groups, and of many groups, the first cells. Columns that
    apply to no cell are left out, such as those of a GPU, or of unfreezing."""
    chosen: list[tuple[int, Row]] = []
    for number, group in enumerate(groups, start=1):
        room = min(MOST_OF_A_GROUP, MOST_CELLS - len(chosen))
        chosen += [(number, row) for row in group.ordered[:room]]
    rare = {
        "unfreeze": any(row.unfreeze not in (None, "all") for _, row in chosen),
        "fold": any(row.fold is not None for _, row in chosen),
        "epochs_run": any(row.early_stopping is not None for _, row in chosen),
    }
    names = [
        n for n in _column_order(groups) if rare.get(n, True)
        if n in _AXES or n == _OVERHEAD or any(BY_NAME[n].applies_to(r) for _, r in chosen)
    ]  # fmt: skip
    heads = [_head(name) for name in names]
    if len(groups) > 1:
        heads.insert(0, Head("group", "group", "number of its group, from 1", True))
    body = [
        [str(number)] * (len(groups) > 1) + [shown(row, name) for name in names]
        for number, row in chosen
    ]
    marks = ["" if row.is_ok else "failed" for _, row in chosen]
    return Table(heads, body, marks=marks, total=sum(len(group.rows) for group in groups))


def _column_order(groups: Sequence[Group]) -> list[str]:
    """The columns, with those that distinguish the cells of these groups moved before the seed."""
    settings = [setting for group in groups for setting in group.settings]
    early = [name for name in CHANGED if len({group.shared(name) for group in groups}) > 1]
    early += ["learning_rate"] * any(setting.tells_rate for setting in settings)
    early += ["frozen_dtype"] * any(setting.tells_frozen for setting in settings)
    every = [row for group in groups for row in group.rows]
    early += [name for name in _RUNS if len({*map(attrgetter(name), every)} - {None}) > 1]
    names = [name for name in _COLUMNS if name not in early]
    at = names.index("seed")
    return [*names[:at], *early, *names[at:]]


def _head(name: str) -> Head:
    if name == _OVERHEAD:
        return Head(name, "overhead, s", "wall_s without train_s and eval_s, s", True)
    column = BY_NAME[name]
    return Head(name, column.title, column.meaning, column.kind is not str)


def shown(row: Row, name: str) -> str:
    """A field as the tables show it: a dash where it does not apply, else `not measured`."""
    value = overhead_s(row) if name == _OVERHEAD else row[name]
    if name == "status":
        return str(value or "not run")
    if isinstance(value, float) and name in _SCORES:
        return by_metric(row.dev_metric, value)
    if isinstance(value, float):
        form = fixed if name in _QUALITY else "{:g}".format if name in _SETTINGS else num
        return form(value)
    if value is not None:
        return f"{value:,}" if name.startswith("params_") else str(value)
    if name in _INPUTS or (name in BY_NAME and not BY_NAME[name].applies_to(row)):
        return DASH
    return "not run" if row.status is None else "not measured"


def failures_table(rows: Sequence[Row]) -> tuple[str, Table]:
    """A heading, which counts cells that have not run yet too, and a table of those that failed or
    are flagged, with their messages; those left out for a budget share a line."""
    bad = [row for row in rows if row.status not in ("ok", None) or row.flags]
    over_budget = [row for row in bad if was_left_out(row)]
    failed = [row for row in bad if not was_left_out(row)]
    name = names(rows)
    body = [
        {
            "cell": name(row), "why": why(row),
            "status": " ".join(filter(None, (row.status, row.flags))),
        }
        for row in [*over_budget[:1], *failed[:MOST_FAILURES]]
    ]  # fmt: skip
    if others := len(over_budget) - 1 if over_budget else 0:
        body[0]["cell"] += f", and {count(others, f'other {one_of(over_budget)}')} left out"
    statuses = Counter(str(row.status or "not run") for row in rows)
    flagged = sum(bool(row.flags) for row in rows)
    heading = phrase("groups", "failures", rows, statuses, flagged)
    return heading, table("failures", body, total=bool(over_budget) + len(failed))


def names(rows: Sequence[Row]) -> Callable[[Row], str]:
    """A function that names each of some cells for people, distinctly among them."""
    alike = grouped(rows, _short_name)

    @cache
    def differing(short: str) -> list[str]:
        return [n for n in _DISTINGUISHING if len({row[n] for row in alike[short]}) > 1]

    def name(row: Row) -> str:
        short = _short_name(row)
        values = {n: row[n] for n in differing(short) if row[n] is not None}
        return ", ".join((short, *(_DISTINGUISHING[n].format(v) for n, v in values.items())))

    return name


def _short_name(row: Row) -> str:
    fold = "" if row.fold is None else f", fold {row.fold}"
    return f"{short_name(row, 'rank', 'layers', 'unfreeze', 'amp')}, seed {row.seed}{fold}"


def why(row: Row) -> str:
    """A failed cell's message, and the meaning of its status and flags."""
    flags = [FLAGS[flag] for flag in row.flag_names if flag in FLAGS]
    meanings = flags if row.is_ok else [STATUSES.get(row.status or "", ""), *flags]
    message = without_paths(" ".join((row.message or "").split()))
    return f"{message} ({'; '.join(meanings)})" if message else "; ".join(meanings)
