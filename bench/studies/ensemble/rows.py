"""Ensembles as the rows of a CSV and as JSON. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from bench.plan.cell import MULTITASK
from bench.stats.intervals import Interval
from bench.studies.ensemble.result import Entry, Overall, Result, TaskResult, caveat

Row = dict[str, Any]

COLUMNS: Final = (
    *("task", "metric", "kind", "name", "model", "cell_id", "weight", "members", "parameters"),
    *("dev_score", "dev_ci_low", "dev_ci_high"),
    *("difference", "difference_ci_low", "difference_ci_high"),
    *("to_ensemble", "to_ensemble_ci_low", "to_ensemble_ci_high", "held_score"),
)
"""Columns of the CSV. `difference` is a row's dev score less the best member's, paired by example,
and empty for the best member; `to_ensemble` is its score less the ensemble's."""


def _row(entry: Entry, result: Result) -> Row:
    """An entry with its differences to the best member and to the ensemble. `members` counts cells,
    each once; it and `parameters` are None where they are not known."""
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


def _cells(result: TaskResult) -> list[Row]:
    weights = {member.row.cell_id: weight for member, weight in result.members}
    return [
        {**_row(entry, result), "cell_id": cell_id, "weight": weights.get(cell_id, 0)}
        for entry in result.alone
        for cell_id in [entry.members[0].row.cell_id]
    ]


def csv_rows(results: Iterable[Result]) -> list[Row]:
    """All rows of the CSV; those of several tasks have the task `sst+sts`."""
    rows = []
    for result in results:
        task = {**dict.fromkeys(COLUMNS), "task": result.task, "metric": result.metric}
        scored = [_row(entry, result) for entry in result.compared]
        scored += _cells(result) if isinstance(result, TaskResult) else []
        rows += [{**task, **row} for row in scored]
    return rows


def as_json(results: Sequence[TaskResult], overall: Overall | None) -> dict[str, Any]:
    """The result of one task, or those of several tasks with their overall score."""

    def more(result: Result, task: str) -> Row:
        if result.published is None:
            return {"notes": result.notes}
        papers = [paper._asdict() for paper in result.published]
        return {"notes": result.notes, "published": papers, "published_caveat": caveat(task)}

    tasks = [{**_task_as_json(result), **more(result, result.task)} for result in results]
    if overall is None:
        return tasks[0] if len(tasks) == 1 else {"tasks": tasks, "overall": None}
    parts = {name: getattr(overall, name) for name in ("metric", "parts", "missing")}
    together = {**parts, **_compared(overall, "best_members"), **more(overall, MULTITASK)}
    return {"tasks": tasks, "overall": together}


def _compared(result: Result, best_name: str) -> Row:
    ensemble, best, *others = (_row(entry, result) for entry in result.compared)
    return {"ensemble": ensemble, best_name: best, "baselines": others, "gain": vars(result.gain)}


def _task_as_json(result: TaskResult) -> Row:
    return {
        **{name: getattr(result, name) for name in ("task", "metric", "average")},
        "candidates": len(result.pool.members),
        **_compared(result, "best_member"),
        "members": [
            {n: getattr(member.row, n) for n in ("name", "task", "model", "cell_id")}
            | {"weight": weight}
            for member, weight in result.members
        ],
        "cells": _cells(result),
        "choice": [
            {
                "added": stage.added.row.cell_id,
                "held_score": stage.held_score,
                "dev_score": stage.dev_score,
                "taken": size == result.size,
            }
            for size, stage in enumerate(result.stages, start=1)
        ],
    }


def _with_ends(name: str, prefix: str, interval: Interval | None) -> Row:
    names = (name, f"{prefix}_ci_low", f"{prefix}_ci_high")
    ends = (interval.value, interval.low, interval.high) if interval else (None,) * len(names)
    return dict(zip(names, ends, strict=True))
