"""The report's part on learning rates: what a search tried, and what it chose."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import pandas as pd

from bench.analysis.groups import Group, is_candidate, key_columns
from bench.analysis.metrics import metric_of
from bench.plan.cell import SEARCHED, Row, Value
from bench.plan.columns import cell_key, has_score, software_key, standing
from bench.report import figures, text
from bench.report.cells import why
from bench.report.drawing import Drawing
from bench.report.sections import Section
from bench.report.tables import DASH, Head, Table

_RATES: Final = ("learning_rate", "learning_rate_base", "learning_rate_head")
_KIND: Final = ("mode", "layers", "rank", "unfreeze")
_NAMES: Final = (
    *(name for name in key_columns() if name not in ("conditions_id", "data_digest")),
    "task", "max_train", "max_dev",
)  # fmt: skip
"""Columns in which candidates are like the cells that they are for; the data is the search's, and
the machine may be another."""
_COLUMNS: Final = (
    "here", "elsewhere", "task", "kind", "mode", "amp", "rank", "rate", "score", "loss", "status",
    "why", "data", "metric", "chosen",
)  # fmt: skip


def rates_section(
    group: Group | None, rows: Sequence[Row], planned: Sequence[Row] = (), prefix: str = ""
) -> list[Section]:
    """The searches behind a group's rates, and what was tried in others; nothing without any."""
    frame = candidates(group, rows, planned)
    here, others = frame[frame["here"]], frame[~frame["here"]]
    if frame.empty:
        return []
    heading = "Learning rates: a search whose rates no cell here has"
    said: list[str] = []
    drawings = []
    tables = []
    if not here.empty:
        kinds, chosen = here["kind"].nunique(), here[here["chosen"]]["kind"].nunique()
        searches = text.count(kinds, "search", "searches")
        own = "each at its own best" if chosen == kinds else f"{chosen:,} with a rate that is used"
        heading = f"Learning rates: {searches}, {own}"
        said.append(_said(here))
        scored = here.dropna(subset=["score"])
        if not scored.empty:
            drawings.append(_drawing(scored, prefix))
        tables.append(_table(here, "Every rate that was tried."))
    if not others.empty:
        said.append(
            f"{text.count(len(others), 'try', 'tries')} of searches for cells that are not in "
            f"this group: {_ended(others)}."
        )
        tables.append(_table(others, "Tries of searches for other cells.", task=True))
    return [Section("rates", "Learning rates", heading, said, drawings, tables)]


def _said(here: pd.DataFrame) -> str:
    said = (
        f"Each mode, layer set and rank is given its own best of a ladder of rates, √10 apart and "
        f"all of its rates together, by {text.count(len(here), 'short run')} ({_ended(here)}) on "
        f"a part of the training data, scored on the rest of it; dev was not seen. The ladder is "
        f"extended while the best is at its end."
    )
    if lent := int(here["elsewhere"].sum()):
        said += f" Among them are {text.count(lent, 'try', 'tries')} from other machines."
    parts = [(str(kind), part) for kind, part in here.groupby("kind", sort=False)]
    if edges := [kind for kind, part in parts if _at_an_edge(part)]:
        said += f" At an end all the same, so perhaps not at its best: {', '.join(edges)}."
    if without := [kind for kind, part in parts if not part["chosen"].any()]:
        said += f" No cell here has a rate of these searches: {', '.join(without)}."
    if (data := here["data"].nunique()) > 1:
        said += f" They ran on {data:,} states of the task's data, so not all are for these cells."
    return said


def _ended(frame: pd.DataFrame) -> str:
    """How many tries ended how."""
    return ", ".join(f"{number:,} {status}" for status, number in Counter(frame["status"]).items())


def _drawing(scored: pd.DataFrame, prefix: str) -> Drawing:
    return figures.rates(
        scored,
        f"held-out {metric_of(scored['metric'].iloc[0]).label}",
        f"{prefix}rates",
        "Held-out score by learning rate; the larger marker is the rate that the cells have.",
    )


def candidates(
    group: Group | None, rows: Sequence[Row], planned: Sequence[Row] = ()
) -> pd.DataFrame:
    """A row for each try: whether it is for cells of a group, its rate, its end, and the choice.

    Chosen are the rates that the group's cells have. For them are the tries of their machine, and
    those of others whose scores a search takes.
    """
    done = {key: row for key, row in standing(rows).items() if is_candidate(row)}
    waiting = [row for row in planned if is_candidate(row) and cell_key(row) not in done]
    of = group.rows if group is not None else ()
    machine = group.first["conditions_id"] if group is not None else None
    lent = _lent(group.first, list(done.values())) if group is not None else {}
    wanted = {_values(row, _NAMES) for row in of}
    used = {
        _values(row, (*_KIND, *_RATES)) for row in of if row.get("learning_rate_source") == SEARCHED
    }
    records = [
        {
            "here": _values(row, _NAMES) in wanted
            and (row["conditions_id"] == machine or lent.get(row["cell_id"]) is row),
            "elsewhere": row["conditions_id"] != machine,
            "task": str(row["task"]), "kind": _kind(row),
            "mode": row["mode"], "amp": row["amp"], "rank": row["rank"] or 0,
            "rate": row["learning_rate"] or row["learning_rate_head"],
            "score": row["dev_score"], "loss": row["dev_loss"],
            "status": row["status"] or "not run",
            "why": "" if row["status"] in ("ok", None) else why(row),
            "data": row["data_digest"], "metric": row["dev_metric"],
            "chosen": _values(row, (*_KIND, *_RATES)) in used,
        }
        for row in [*done.values(), *({**row, "status": None} for row in waiting)]
    ]  # fmt: skip
    frame = pd.DataFrame(records, columns=list(_COLUMNS))
    frame = frame.astype({"rate": float, "score": float, "loss": float, "here": bool})
    frame["chosen"] = frame["chosen"].astype(bool) & frame["here"]
    return frame.sort_values(["task", "mode", "kind", "rate"], ignore_index=True)


def _lent(here: Row, tries: Sequence[Row]) -> dict[Value, Row]:
    """By cell_id the tries of other machines whose scores count here: as for `bench.results.store`,
    those of the same software, where this machine has none."""
    machine, scored = here["conditions_id"], list(filter(has_score, tries))
    own = {row["cell_id"] for row in scored if row["conditions_id"] == machine}
    return {
        row["cell_id"]: row
        for row in scored
        if row["conditions_id"] != machine and row["cell_id"] not in own
        if software_key(row) == software_key(here)
    }


def _values(row: Row, names: Sequence[str]) -> tuple[Value, ...]:
    return tuple(row.get(name) for name in names)


def _kind(row: Row) -> str:
    adapter = f" rank {row['rank']} on {row['layers']}" if row["rank"] is not None else ""
    unfreezing = ", unfreezing" if row.get("unfreeze") not in (None, "all") else ""
    return f"{row['mode']}{adapter}{unfreezing}"


def _at_an_edge(part: pd.DataFrame) -> bool:
    ends = (part["rate"].min(), part["rate"].max())
    return bool(part[part["chosen"]]["rate"].isin(ends).any())


def _table(frame: pd.DataFrame, caption: str, *, task: bool = False) -> Table:
    heads = [
        *([Head("task", "task")] if task else []),
        Head("kind", "mode, rank, layers"), Head("rate", "rate", "the mode's main one", True),
        Head("score", "held-out score", "", True), Head("loss", "held-out loss", "", True),
        Head("status", "status"), Head("why", "why"),
        *([] if task else [Head("chosen", "chosen")]),
    ]  # fmt: skip
    rows = [
        [
            *([row["task"]] if task else []), str(row["kind"]),
            DASH if pd.isna(row["rate"]) else f"{row['rate']:g}",
            DASH if pd.isna(row["score"]) else text.fixed(row["score"]),
            DASH if pd.isna(row["loss"]) else text.fixed(row["loss"]),
            str(row["status"]), str(row["why"]),
            *([] if task else ["yes" if row["chosen"] else ""]),
        ]
        for row in frame.to_dict("records")
    ]  # fmt: skip
    return Table(heads, rows, caption, folded=True)
