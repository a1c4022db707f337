"""Scores as rows with one set of columns, which JSON, CSV and pages share. Pure."""

from collections.abc import Sequence
from typing import Any, Final

from bench.plan.cell import OVERALL
from bench.stats.intervals import Interval
from bench.studies.ensemble.outcome import CELL, Entry, Outcome, gain_of
from bench.studies.ensemble.overall import Overall

Row = dict[str, Any]

COLUMNS: Final = (
    *("task", "metric", "kind", "name", "model", "cell_id", "weight", "members", "parameters"),
    *("dev_score", "dev_ci_low", "dev_ci_high"),
    *("difference", "difference_ci_low", "difference_ci_high"),
    *("to_ensemble", "to_ensemble_ci_low", "to_ensemble_ci_high", "held_score"),
)
"""Columns of the CSV. `difference` is a row's dev score less the best member's, paired by example,
and empty for the best member; `to_ensemble` is its score less the ensemble's."""


def entry_row(entry: Entry, result: Outcome | Overall) -> Row:
    """An entry with its differences to the best member and to the ensemble.

    `members` counts cells, each once; it and `parameters` are None where they are not known.
    """
    best, ensemble = result.best, result.ensemble
    models = {member.row.model for member in entry.members}
    ids = {member.row.cell_id for member in entry.members}
    is_best = entry is best or (entry.kind == CELL and entry.members[0] is best.members[0])
    difference = None if is_best else gain_of(entry, best)
    to_ensemble = None if entry is ensemble else gain_of(entry, ensemble)
    return {
        "kind": entry.kind,
        "name": entry.name,
        "model": models.pop() if len(models) == 1 else None,
        "members": len(ids) or None,
        "parameters": entry.parameters,
        **_with_ends("dev_score", "dev", entry.dev),
        **_with_ends("difference", "difference", difference),
        **_with_ends("to_ensemble", "to_ensemble", to_ensemble),
        "held_score": entry.held_score,
    }


def compared_rows(result: Outcome | Overall) -> list[Row]:
    """The rows of an ensemble, its best member and its baselines, in this order."""
    return [entry_row(entry, result) for entry in (result.ensemble, result.best, *result.others)]


def cell_rows(outcome: Outcome) -> list[Row]:
    """The rows of all candidates, each alone, with its weight in the ensemble."""
    weights = {member.row.cell_id: weight for member, weight in outcome.members}
    rows: list[Row] = []
    for entry in outcome.alone:
        cell_id = entry.members[0].row.cell_id
        row = entry_row(entry, outcome)
        rows.append({**row, "cell_id": cell_id, "weight": weights.get(cell_id, 0)})
    return rows


def csv_rows(outcomes: Sequence[Outcome], overall: Overall | None) -> list[Row]:
    """All rows of the CSV, task by task; those of several tasks have the task `sst+sts`."""
    blank: Row = dict.fromkeys(COLUMNS)
    rows: list[Row] = []
    for outcome in outcomes:
        task = {"task": outcome.candidates.task, "metric": outcome.candidates.metric}
        rows += [{**blank, **task, **row} for row in (*compared_rows(outcome), *cell_rows(outcome))]
    if overall is not None:
        task = {"task": "+".join(overall.parts), "metric": OVERALL}
        rows += [{**blank, **task, **row} for row in compared_rows(overall)]
    return rows


def _with_ends(name: str, prefix: str, interval: Interval | None) -> Row:
    value, low, high = (
        (None, None, None) if interval is None else (interval.value, interval.low, interval.high)
    )
    return {name: value, f"{prefix}_ci_low": low, f"{prefix}_ci_high": high}
