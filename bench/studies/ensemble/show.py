"""Ensembles as JSON, and as tables on a terminal."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.plan.cell import MULTITASK, OVERALL
from bench.report.text import count, plain, span
from bench.stats.intervals import Interval
from bench.studies.ensemble import rows
from bench.studies.ensemble.outcome import Outcome
from bench.studies.ensemble.overall import Overall
from bench.studies.ensemble.published import caveat, published

_WIDTH: Final = 120
"""Characters of a line where the output is no terminal."""
_DASH: Final = "–"


def outcomes_as_json(
    outcomes: Sequence[Outcome], overall: Overall | None, *, with_published: bool
) -> dict[str, Any]:
    """The outcome of one task, or those of several tasks with their overall score."""
    tasks = [_task_as_json(outcome, with_published=with_published) for outcome in outcomes]
    if overall is None:
        return tasks[0] if len(tasks) == 1 else {"tasks": tasks, "overall": None}
    ensembles, best, *others = rows.compared_rows(overall)
    overall_json: dict[str, Any] = {
        "metric": OVERALL,
        "parts": list(overall.parts),
        "missing": list(overall.missing),
        "ensemble": ensembles,
        "best_members": best,
        "baselines": others,
        "gain": vars(overall.gain),
        "notes": overall.notes,
        **(_published_as_json(MULTITASK) if with_published else {}),
    }
    return {"tasks": tasks, "overall": overall_json}


def _task_as_json(outcome: Outcome, *, with_published: bool) -> dict[str, Any]:
    candidates = outcome.candidates
    ensemble, best, *others = rows.compared_rows(outcome)
    return {
        "task": candidates.task,
        "metric": candidates.metric,
        "average": outcome.average,
        "candidates": len(candidates.members),
        "ensemble": ensemble,
        "best_member": best,
        "baselines": others,
        "gain": vars(outcome.gain),
        "members": [
            {
                "name": member.name,
                "task": member.row.task,
                "model": member.row.model,
                "cell_id": member.row.cell_id,
                "weight": weight,
            }
            for member, weight in outcome.members
        ],
        "cells": rows.cell_rows(outcome),
        "choice": [
            {
                "added": stage.added.row.cell_id,
                "held_score": stage.held_score,
                "dev_score": stage.dev_score,
                "taken": size == outcome.size,
            }
            for size, stage in enumerate(outcome.stages, start=1)
        ],
        "notes": outcome.all_notes,
        **(_published_as_json(candidates.task) if with_published else {}),
    }


def _published_as_json(task: str) -> dict[str, Any]:
    scores = [asdict(score) for score in published(task)]
    return {"published": scores, "published_caveat": caveat(task)}


class Printer:
    """Prints to stdout; published scores too, if `with_published`."""

    def __init__(self, *, with_published: bool) -> None:
        console = Console(highlight=False)
        self._console = console if console.is_terminal else Console(highlight=False, width=_WIDTH)
        self._with_published = with_published

    def task(self, outcome: Outcome) -> None:
        """Print an ensemble of one task and its baselines."""
        candidates = outcome.candidates
        among = count(len(candidates.members), "cell")
        average = f"the average of {outcome.average}, members chosen among {among}"
        self._line(f"{candidates.task}: {average}")
        self._scores(candidates.metric, outcome)
        for member, weight in outcome.members:
            self._line(f"  {weight} × {candidates.name_of(member)}")
        self._line(f"against the best member alone: {_gain_text(outcome.gain)}")
        self._notes(outcome.all_notes, candidates.task)

    def overall(self, overall: Overall) -> None:
        """Print the overall score of ensembles of several tasks."""
        self._line("")
        self._line(f"all together: {overall.formula}")
        self._scores(OVERALL, overall)
        self._line(f"against the best members alone: {_gain_text(overall.gain)}")
        self._notes(overall.notes, MULTITASK)

    def _scores(self, metric: str, result: Outcome | Overall) -> None:
        table = Table(box=None)
        for head in ("", f"dev {metric}", "95% interval", "held out", "parameters"):
            table.add_column(head, justify="right" if head else "left", no_wrap=bool(head))
        for entry in (result.ensemble, result.best, *result.others):
            held = _DASH if entry.held_score is None else f"{entry.held_score:.3f}"
            table.add_row(
                Text(plain(label_of(entry.kind, entry.name))), f"{entry.dev.value:.3f}",
                _interval_text(entry.dev), held, number(entry.parameters),
            )  # fmt: skip
        self._console.print(table)

    def _notes(self, notes: Sequence[str], task: str) -> None:
        """Print notes, then a task's published scores if they are asked for."""
        for note in notes:
            self._line(f"note: {note}")
        scores = published(task) if self._with_published else ()
        if not scores:
            return
        table = Table(box=None)
        for head in ("model", "parameters", "score", "metric", "of", "source"):
            table.add_column(head, justify="right" if head in ("parameters", "score") else "left")
        for row in scores:
            table.add_row(
                row.model, number(row.parameters), f"{row.score:.3f}", row.metric, row.split,
                row.source,
            )  # fmt: skip
        self._line(caveat(task))
        self._console.print(table)

    def _line(self, line: str) -> None:
        self._console.print(plain(line), markup=False, soft_wrap=True)


def label_of(kind: str, name: str) -> str:
    """The kind and the name of an entry; its kind alone where it has no name of its own."""
    return kind if name == kind else f"{kind}: {name}"


def number(value: int | None) -> str:
    """A count, or a dash where it is not known."""
    return _DASH if value is None else f"{value:,}"


def _gain_text(gain: Interval) -> str:
    return f"{gain.value:+.3f} ({_interval_text(gain)})"


def _interval_text(interval: Interval) -> str:
    return span(interval, lambda value: f"{value:.3f}") or "no interval"
