"""The page of updates. Importing this loads matplotlib."""

from collections.abc import Sequence
from typing import Final

from bench.report.pages import TableFacts
from bench.report.text import count, plain
from bench.studies.updates import figures, tables
from bench.studies.updates.modules import Update
from bench.studies.updates.truncation import Truncation, problems

_PERCENT: Final = 90


def facts(
    updates: Sequence[Update],
    truncations: Sequence[Truncation],
    notes: Sequence[str],
    command: str,
) -> TableFacts:
    """The content of the page.

    Args:
        notes: remarks on cells that were left out and on the tasks.
        command: the command line that made it.
    """
    whole = next((update for update in updates if update.cell.whole), updates[0])
    metrics = dict.fromkeys(truncation.metric for truncation in truncations)
    models, tasks = (
        " and ".join(dict.fromkeys(plain(str(update.cell.row[key])) for update in updates))
        for key in ("model", "task")
    )
    more = [f"Figures show the first {figures.MOST} cells, tables all."]
    return TableFacts(
        title=f"What training changed: {models} on {tasks}, {count(len(updates), 'cell')}",
        findings=tables.findings(updates, truncations),
        problems=problems(truncations),
        tables=[*tables.tables(updates, truncations), tables.module_table(updates)],
        drawings=[
            figures.energy(updates),
            figures.energy_by_kind(whole),
            *(
                figures.scores([cell for cell in truncations if cell.metric == metric])
                for metric in metrics
            ),
            *(
                figures.ranks(update, _PERCENT, f"rank-{_PERCENT}-{number}")
                for number, update in enumerate(updates[: figures.MOST], start=1)
            ),
        ],
        how="What was read",
        said=[
            *tables.explanations(updates),
            *notes,
            *(more if len(updates) > figures.MOST else []),
        ],
        command=command,
    )
