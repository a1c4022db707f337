"""The report's part on learning rates: what a search tried, and what it chose."""

from collections.abc import Sequence
from typing import Final

import pandas as pd

from bench.groups import Group, is_candidate, key_columns
from bench.report import figures, text
from bench.report.sections import Section
from bench.report.tables import DASH, Head, Table
from bench.schema import SEARCHED, Row, latest

_OWN: Final = ("data_digest",)
"""Columns in which candidates differ from the cells that they are for."""


def rates_section(group: Group, rows: Sequence[Row], prefix: str = "") -> list[Section]:
    """The search behind a group's rates; nothing where there was none."""
    if not any(row.get("learning_rate_source") == SEARCHED for row in group.rows):
        return []
    frame = candidates(group, rows)
    if frame.empty:
        return []
    kinds = frame["kind"].nunique()
    edges = [str(kind) for kind, part in frame.groupby("kind", sort=False) if _at_an_edge(part)]
    said = (
        f"Each mode, layer set and rank has its own best of a ladder of rates, √10 apart and all "
        f"of its rates together, found by {text.count(len(frame), 'short run')} on a part of the "
        f"training data and scored on the rest of it; dev was not seen. The ladder is extended "
        f"while the best is at its end."
    )
    if edges:
        said += f" At an end all the same, so perhaps not at its best: {', '.join(edges)}."
    drawing = figures.rates(
        frame.dropna(subset=["score"]),
        text.y_label(group).replace("dev", "held-out"),
        f"{prefix}rates",
        "Held-out score by learning rate; the larger marker is the rate that was chosen.",
    )
    return [
        Section(
            "rates", "Learning rates",
            f"Learning rates: {text.count(kinds, 'search', 'searches')}, each at its own best",
            [said], [drawing], [_table(frame)],
        )
    ]  # fmt: skip


def candidates(group: Group, rows: Sequence[Row]) -> pd.DataFrame:
    """A row for each try that belongs to a group: kind, mode, rate, score, and the choice."""
    names = [name for name in key_columns() if name not in _OWN]
    wanted = {name: group.first.get(name) for name in names}
    tries = [
        row
        for row in latest(rows).values()
        if is_candidate(row) and all(row.get(name) == wanted[name] for name in names)
    ]
    records = [
        {
            "kind": _kind(row), "mode": row["mode"], "amp": row["amp"], "rank": row["rank"] or 0,
            "rate": row["learning_rate"] or row["learning_rate_head"],
            "score": row["dev_score"], "loss": row["dev_loss"], "status": row["status"],
        }
        for row in tries
    ]  # fmt: skip
    columns = ["kind", "mode", "amp", "rank", "rate", "score", "loss", "status"]
    frame = pd.DataFrame(records, columns=columns)
    frame = frame.astype({"rate": "float64", "score": "float64", "loss": "float64"})
    frame = frame.sort_values(["mode", "kind", "rate"], ignore_index=True)
    best = frame.dropna(subset=["score"]).sort_values(["score", "loss"], ascending=[False, True])
    frame["chosen"] = frame.index.isin(best.groupby("kind").head(1).index)
    return frame


def _kind(row: Row) -> str:
    adapter = f" rank {row['rank']} on {row['layers']}" if row["rank"] is not None else ""
    return f"{row['mode']}{adapter}"


def _at_an_edge(part: pd.DataFrame) -> bool:
    scored = part.dropna(subset=["score"])
    chosen = scored[scored["chosen"]]["rate"]
    return bool(len(chosen)) and float(chosen.iloc[0]) in (part["rate"].min(), part["rate"].max())


def _table(frame: pd.DataFrame) -> Table:
    heads = [
        Head("kind", "mode, rank, layers"), Head("rate", "rate", "the mode's main one", True),
        Head("score", "held-out score", "", True), Head("loss", "held-out loss", "", True),
        Head("status", "status"), Head("chosen", "chosen"),
    ]  # fmt: skip
    rows = [
        [
            str(row["kind"]), f"{row['rate']:g}",
            DASH if pd.isna(row["score"]) else text.fixed(row["score"]),
            DASH if pd.isna(row["loss"]) else text.fixed(row["loss"]),
            str(row["status"]), "yes" if row["chosen"] else "",
        ]
        for row in frame.to_dict("records")
    ]  # fmt: skip
    return Table(heads, rows, "Every rate that was tried.", folded=True)
