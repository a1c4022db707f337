"""Ensembles as the rows of a CSV and as JSON. Pure."""

from collections.abc import Sequence
from typing import Any, Final

from bench.plan.cell import MULTITASK
from bench.stats.intervals import Interval
from bench.studies.ensemble.outcome import Entry, Outcome, Overall, Result
from bench.studies.ensemble.published import caveat, published

Row = dict[str, Any]

COLUMNS: Final = (
    *("task", "metric", "kind", "name", "model", "cell_id", "weight", "members", "parameters"),
    *("dev_score", "dev_ci_low", "dev_ci_high"),
    *("difference", "difference_ci_low", "difference_ci_high"),
    *("to_ensemble", "to_ensemble_ci_low", "to_ensemble_ci_high", "held_score"),
)
"""Columns of the CSV. `difference` is a row's dev score less the best member's, paired by example,
and empty for the best member; `to_ensemble` is its score less the ensemble's."""


def entry_row(entry: Entry, result: Result) -> Row:
    """An entry with its differences to the best member and to the ensemble.

    `members` counts cells, each once; it and `parameters` are None where they are not known.
    """
    difference, to_ensemble = result.differences(entry)
    models = {member.row.model for member in entry.members}
    return {
        "kind": entry.kind,
        "name": entry.name,
        "model": models.pop() if len(models) == 1 else None,
        "members": len({member.row.cell_id for member in entry.members}) or None,
        "parameters": entry.parameters,
        **_with_ends("dev_score", "dev", entry.dev),
        **_with_ends("difference", "difference", difference),
        **_with_ends("to_ensemble", "to_ensemble", to_ensemble),
        "held_score": entry.held_score,
    }


def cell_rows(outcome: Outcome) -> list[Row]:
    """The rows of all candidates, each alone, with its weight in the ensemble."""
    weights = {member.row.cell_id: weight for member, weight in outcome.members}
    return [
        {**entry_row(entry, outcome), "cell_id": cell_id, "weight": weights.get(cell_id, 0)}
        for entry in outcome.alone
        for cell_id in [entry.members[0].row.cell_id]
    ]


def csv_rows(outcomes: Sequence[Outcome], overall: Overall | None) -> list[Row]:
    """All rows of the CSV, task by task; those of several tasks have the task `sst+sts`."""
    rows: list[Row] = []
    for result in (*outcomes, *([overall] if overall else [])):
        task = {**dict.fromkeys(COLUMNS), "task": result.task, "metric": result.metric}
        scored = [entry_row(entry, result) for entry in result.compared]
        scored += cell_rows(result) if isinstance(result, Outcome) else []
        rows += [{**task, **row} for row in scored]
    return rows


def as_json(
    outcomes: Sequence[Outcome], overall: Overall | None, *, with_published: bool
) -> dict[str, Any]:
    """The outcome of one task, or those of several tasks with their overall score."""

    def more(result: Result, task: str) -> Row:
        scores = [score._asdict() for score in published(task)]
        shown = {"published": scores, "published_caveat": caveat(task)}
        return {"notes": result.notes, **(shown if with_published else {})}

    tasks = [{**_task_as_json(outcome), **more(outcome, outcome.task)} for outcome in outcomes]
    if overall is None:
        return tasks[0] if len(tasks) == 1 else {"tasks": tasks, "overall": None}
    ensembles, best, *others = (entry_row(entry, overall) for entry in overall.compared)
    overall_json = {
        "metric": overall.metric,
        "parts": overall.parts,
        "missing": overall.missing,
        "ensemble": ensembles,
        "best_members": best,
        "baselines": others,
        "gain": vars(overall.gain),
        **more(overall, MULTITASK),
    }
    return {"tasks": tasks, "overall": overall_json}


def _task_as_json(outcome: Outcome) -> Row:
    ensemble, best, *others = (entry_row(entry, outcome) for entry in outcome.compared)
    return {
        "task": outcome.task,
        "metric": outcome.metric,
        "average": outcome.average,
        "candidates": len(outcome.candidates.members),
        "ensemble": ensemble,
        "best_member": best,
        "baselines": others,
        "gain": vars(outcome.gain),
        "members": [
            {
                "name": member.name,
                **{name: member.row[name] for name in ("task", "model", "cell_id")},
                "weight": weight,
            }
            for member, weight in outcome.members
        ],
        "cells": cell_rows(outcome),
        "choice": [
            {
                "added": stage.added.row.cell_id,
                "held_score": stage.held_score,
                "dev_score": stage.dev_score,
                "taken": size == outcome.size,
            }
            for size, stage in enumerate(outcome.stages, start=1)
        ],
    }


def _with_ends(name: str, prefix: str, interval: Interval | None) -> Row:
    names = (name, f"{prefix}_ci_low", f"{prefix}_ci_high")
    if interval is None:
        return dict.fromkeys(names)
    return dict(zip(names, (interval.value, interval.low, interval.high), strict=True))
