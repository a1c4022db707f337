"""The report's section on learning rates: the tries of a search, and its choices."""

from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Final

import pandas as pd

from bench.analysis.groups import Group
from bench.plan.cell import SEARCHED, Value, named
from bench.plan.metrics import metric_of
from bench.plan.rows import Row, current_rows
from bench.report import figures
from bench.report.cells import why
from bench.report.pages import Section, phrase, sentences
from bench.report.tables import Table, table

_choice: Final = attrgetter(
    *("mode", "layers", "rank", "unfreeze"),
    *("learning_rate", "learning_rate_base", "learning_rate_head"),
)
_conditions: Final = attrgetter(
    *(n for n in named(lambda about: about.compared in ("group", "never")) if n != "data_digest"),
    *("task", "max_train", "max_dev"),
)
"""What a search's tries share with the cells that they are for; data and machine differ."""


def rates_section(
    group: Group | None, rows: Sequence[Row], planned: Sequence[Row] = ()
) -> list[Section]:
    """The section on the searches for a group's rates and on other searches; none without any."""
    frame = candidates(group, rows, planned)
    if frame.empty:
        return []
    here, others = frame[frame["here"]], frame[~frame["here"]]
    kinds = {str(kind): tries for kind, tries in here.groupby("kind", sort=False)}
    unused = [kind for kind, tries in kinds.items() if not tries["chosen"].any()]
    heading, *lines = sentences(
        "rates", here=here, others=others, searches=len(kinds), used=len(kinds) - len(unused),
        elsewhere=int(here["elsewhere"].sum()), states=here["data"].nunique(), unused=unused,
        edges=[
            kind for kind, tries in kinds.items()
            if tries["rate"][tries["chosen"]].isin(tries["rate"].agg(["min", "max"])).any()
        ],
    )  # fmt: skip
    drawings, scored = [], here.dropna(subset=["score"])
    if not scored.empty:
        label = f"held-out {metric_of(scored['metric'].iloc[0]).label}"
        drawings = [figures.rates(scored, label, "rates", phrase("captions", "search"))]
    tables = [] if here.empty else [_table(here, "task", "Every rate that was tried.")]
    if not others.empty:
        tables.append(_table(others, "chosen", "Tries of searches for other cells."))
    return [Section("rates", "Learning rates", heading, lines, drawings, tables)]


def candidates(group: Group | None, rows: Sequence[Row], planned: Sequence[Row]) -> pd.DataFrame:
    """A row for each try: its rate, score and status. `here` marks the tries for the group's cells:
    those of their machine, and those of other machines whose scores a search uses. `chosen` marks
    the rates that the group's cells have."""
    done = {key: row for key, row in current_rows(rows).items() if row.is_candidate}
    waiting = [row for row in planned if row.is_candidate and row.key not in done]
    cells: Sequence[Row] = group.rows if group else ()
    machine = group.first.conditions_id if group else None
    borrowed = _borrowed(group.first, list(done.values())) if group else {}
    searched = {_conditions(row) for row in cells}
    used = {_choice(row) for row in cells if row.learning_rate_source == SEARCHED}
    records = [
        {
            "here": _conditions(row) in searched
            and (row.conditions_id == machine or borrowed.get(row.cell_id) is row),
            "elsewhere": row.conditions_id != machine,
            "task": row.task, "kind": _kind(row),
            "mode": row.mode, "amp": row.amp, "rank": row.rank or 0,
            "rate": row.learning_rate or row.learning_rate_head,
            "score": row.dev_score, "loss": row.dev_loss,
            "status": row.status or "not run",
            "why": "" if row.status in ("ok", None) else why(row),
            "data": row.data_digest, "metric": row.dev_metric,
            "chosen": _choice(row) in used,
        }
        for row in [*done.values(), *(replace(row, status=None) for row in waiting)]
    ]  # fmt: skip
    if not records:
        return pd.DataFrame()
    frame = pd.DataFrame(records).astype({"rate": float, "score": float, "loss": float})
    frame["chosen"] &= frame["here"]
    return frame.sort_values(["task", "mode", "kind", "rate"], ignore_index=True)


def _borrowed(here: Row, tries: Sequence[Row]) -> dict[Value, Row]:
    """The tries of other machines whose scores count here, by cell_id: those with the same software
    of cells that this machine has not scored, as in `bench.results.store`."""
    machine, scored = here.conditions_id, [row for row in tries if row.has_score]
    own = {row.cell_id for row in scored if row.conditions_id == machine}
    return {
        row.cell_id: row
        for row in scored
        if row.conditions_id != machine and row.cell_id not in own
        if row.software == here.software
    }


def _kind(row: Row) -> str:
    adapter = f" rank {row.rank} on {row.layers}" if row.rank is not None else ""
    unfreezing = ", unfreezing" if row.unfreeze not in (None, "all") else ""
    return f"{row.mode}{adapter}{unfreezing}"


def _table(tries: pd.DataFrame, without: str, caption: str) -> Table:
    chosen = tries["chosen"].map({True: "yes", False: ""})
    rows = tries.assign(chosen=chosen).drop(columns=without).to_dict("records")
    return table("rates", rows, caption, folded=True)
