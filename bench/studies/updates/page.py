"""The page of updates: its figures and what it says. Importing this loads matplotlib."""

from collections.abc import Sequence
from typing import Final

from bench.report.drawing import Drawing
from bench.report.pages import TableFacts
from bench.report.text import count, plain
from bench.studies.updates import figures, tables
from bench.studies.updates.modules import Update
from bench.studies.updates.truncation import Truncation, problems

_PERCENT: Final = 90


def drawings(updates: Sequence[Update], truncations: Sequence[Truncation]) -> list[Drawing]:
    """Energy by rank, of the cells and by kind, dev scores by rank, and ranks by layer."""
    whole = next((update for update in updates if update.cell.whole), updates[0])
    drawn = [figures.energy(updates), figures.energy_by_kind(whole)]
    drawn += [
        figures.scores([of for of in truncations if of.metric == metric])
        for metric in dict.fromkeys(of.metric for of in truncations)
    ]
    drawn += [
        figures.ranks(update, _PERCENT, f"rank-{_PERCENT}-{number}")
        for number, update in enumerate(updates[: figures.MOST], start=1)
    ]
    return drawn


def facts(
    updates: Sequence[Update],
    truncations: Sequence[Truncation],
    notes: Sequence[str],
    command: str,
) -> TableFacts:
    """Everything that the page says.

    Args:
        notes: what else there is to say: what was left out, and of the tasks.
        command: that made it.
    """
    models = " and ".join(dict.fromkeys(plain(str(of.cell.row["model"])) for of in updates))
    tasks = " and ".join(dict.fromkeys(plain(str(of.cell.row["task"])) for of in updates))
    left = len(updates) - figures.MOST
    more = [f"Figures show the first {figures.MOST} cells, tables all."] if left > 0 else []
    return TableFacts(
        title=f"What training changed: {models} on {tasks}, {count(len(updates), 'cell')}",
        findings=tables.findings(updates, truncations),
        problems=problems(truncations),
        tables=[*tables.tables(updates, truncations), tables.module_table(updates)],
        drawings=drawings(updates, truncations),
        how="What was read",
        said=[*tables.said(updates), *notes, *more],
        command=command,
    )
