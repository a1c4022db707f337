"""The report's section on learning rates: the tries of a search, and its choices."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pandas as pd

from bench.analysis.groups import Group
from bench.plan.cell import SEARCHED, Value, named
from bench.plan.metrics import metric_of
from bench.plan.rows import Row, current_rows
from bench.report import figures, text
from bench.report.cells import why
from bench.report.sections import Section
from bench.report.tables import DASH, Head, Table

_RATES: Final = ("learning_rate", "learning_rate_base", "learning_rate_head")
_KIND: Final = ("mode", "layers", "rank", "unfreeze")
_NAMES: Final = (
    *(n for n in named(lambda about: about.compared in ("group", "never")) if n != "data_digest"),
    "task", "max_train", "max_dev",
)  # fmt: skip
"""Columns in which a search's tries equal the cells that they are for; data and machine differ."""


def rates_section(
    group: Group | None, rows: Sequence[Row], planned: Sequence[Row] = ()
) -> list[Section]:
    """The section on the searches for a group's rates and on other searches; none without any."""
    frame = candidates(group, rows, planned)
    if frame.empty:
        return []
    here, others = frame[frame["here"]], frame[~frame["here"]]
    heading = "Learning rates: a search whose rates no cell here has"
    sentences: list[str] = []
    drawings = []
    tables = []
    if not here.empty:
        kinds, chosen = here["kind"].nunique(), here[here["chosen"]]["kind"].nunique()
        searches = text.count(kinds, "search", "searches")
        own = "each at its own best" if chosen == kinds else f"{chosen:,} with a rate that is used"
        heading = f"Learning rates: {searches}, {own}"
        sentences.append(_summary(here))
        scored = here.dropna(subset=["score"])
        if not scored.empty:
            drawings.append(figures.rates(
                scored, f"held-out {metric_of(scored['metric'].iloc[0]).label}", "rates",
                "Held-out score by learning rate; the larger marker is the rate that the cells "
                "have.",
            ))  # fmt: skip
        tables.append(_table(here, "Every rate that was tried."))
    if not others.empty:
        sentences.append(
            f"{text.count(len(others), 'try', 'tries')} of searches for cells that are not in "
            f"this group: {_ended(others)}."
        )
        tables.append(_table(others, "Tries of searches for other cells.", task=True))
    return [Section("rates", "Learning rates", heading, sentences, drawings, tables)]


def _summary(here: pd.DataFrame) -> str:
    sentences = (
        f"Each mode, layer set and rank has its own best of a series of rates, a factor of √10 "
        f"apart, which multiplies all of its rates together. It was found by "
        f"{text.count(len(here), 'short run')} ({_ended(here)}) on a part of the training data, "
        f"scored on the rest of it; dev was not seen. The series is extended while the best rate "
        f"is at its end."
    )
    if from_elsewhere := int(here["elsewhere"].sum()):
        sentences += (
            f" Among them are {text.count(from_elsewhere, 'try', 'tries')} from other machines."
        )
    parts = [(str(kind), part) for kind, part in here.groupby("kind", sort=False)]
    if edges := [kind for kind, part in parts if _at_an_edge(part)]:
        sentences += (
            f" At an end all the same, so a rate beyond it may be better: {', '.join(edges)}."
        )
    if without := [kind for kind, part in parts if not part["chosen"].any()]:
        sentences += f" No cell here has a rate of these searches: {', '.join(without)}."
    if (data := here["data"].nunique()) > 1:
        sentences += (
            f" They ran on {data:,} states of the task's data, so not all are for these cells."
        )
    return sentences


def _ended(frame: pd.DataFrame) -> str:
    return ", ".join(f"{number:,} {status}" for status, number in Counter(frame["status"]).items())


def candidates(
    group: Group | None, rows: Sequence[Row], planned: Sequence[Row] = ()
) -> pd.DataFrame:
    """A row for each try: its rate, score and status.

    `here` marks the tries for the group's cells: those of their machine, and those of other
    machines whose scores a search uses. `chosen` marks the rates that the group's cells have.
    """
    done = {key: row for key, row in current_rows(rows).items() if row.is_candidate}
    waiting = [row for row in planned if row.is_candidate and row.key not in done]
    cells: Sequence[Row] = group.rows if group else ()
    machine = group.first.conditions_id if group else None
    borrowed = _borrowed(group.first, list(done.values())) if group else {}
    searched = {_values(row, _NAMES) for row in cells}
    used = {
        _values(row, (*_KIND, *_RATES)) for row in cells if row.learning_rate_source == SEARCHED
    }
    records = [
        {
            "here": _values(row, _NAMES) in searched
            and (row.conditions_id == machine or borrowed.get(row.cell_id) is row),
            "elsewhere": row.conditions_id != machine,
            "task": row.task, "kind": _kind(row),
            "mode": row.mode, "amp": row.amp, "rank": row.rank or 0,
            "rate": row.learning_rate or row.learning_rate_head,
            "score": row.dev_score, "loss": row.dev_loss,
            "status": row.status or "not run",
            "why": "" if row.status in ("ok", None) else why(row),
            "data": row.data_digest, "metric": row.dev_metric,
            "chosen": _values(row, (*_KIND, *_RATES)) in used,
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


def _values(row: Row, names: Sequence[str]) -> tuple[Value, ...]:
    return tuple(row[name] for name in names)


def _kind(row: Row) -> str:
    adapter = f" rank {row.rank} on {row.layers}" if row.rank is not None else ""
    unfreezing = ", unfreezing" if row.unfreeze not in (None, "all") else ""
    return f"{row.mode}{adapter}{unfreezing}"


def _at_an_edge(part: pd.DataFrame) -> bool:
    ends = (part["rate"].min(), part["rate"].max())
    return bool(part[part["chosen"]]["rate"].isin(ends).any())


def _table(frame: pd.DataFrame, caption: str, *, task: bool = False) -> Table:
    """The tries, each with its task, or with whether its rate is chosen."""
    heads = [
        Head("kind", "mode, rank, layers"), Head("rate", "rate", "the mode's main one", True),
        Head("score", "held-out score", "", True), Head("loss", "held-out loss", "", True),
        Head("status", "status"), Head("why", "why"),
    ]  # fmt: skip
    heads = [Head("task", "task"), *heads] if task else [*heads, Head("chosen", "chosen")]
    texts = frame.assign(
        rate=frame["rate"].map("{:g}".format, na_action="ignore"),
        score=frame["score"].map(text.fixed, na_action="ignore"),
        loss=frame["loss"].map(text.fixed, na_action="ignore"),
        chosen=frame["chosen"].map({True: "yes", False: ""}),
    )[[head.key for head in heads]].astype(object)
    return Table(heads, texts.fillna(DASH).values.tolist(), caption, folded=True)
