"""What an ensemble's command prints: tables on a terminal, or JSON."""

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
from bench.studies.ensemble.outcome import Outcome, Scored, notes_of
from bench.studies.ensemble.published import caveat, published
from bench.studies.ensemble.together import Together

_WIDTH: Final = 120
"""Characters of a line where there is no terminal to ask."""


def outcomes_as_json(
    outcomes: Sequence[Outcome], overall: Together | None, *, beside: bool
) -> dict[str, Any]:
    """What is told of one task, or of several tasks and all of them together.

    Args:
        beside: whether published scores are told too.
    """
    tasks = [_task_as_json(outcome, beside=beside) for outcome in outcomes]
    if len(tasks) > 1 and overall is None:
        return {"tasks": tasks, "overall": None}
    if overall is None:
        return tasks[0]
    ensembles, best, *others = rows.all_beside(overall)
    told: dict[str, Any] = {
        "metric": OVERALL,
        "parts": list(overall.parts),
        "missing": list(overall.missing),
        "ensemble": ensembles,
        "best_members": best,
        "baselines": others,
        "gain": vars(overall.gain),
        "notes": overall.notes,
        **_published_as_json(MULTITASK, beside=beside),
    }
    return {"tasks": tasks, "overall": told}


def _task_as_json(outcome: Outcome, *, beside: bool) -> dict[str, Any]:
    candidates = outcome.candidates
    ensemble, best, *others = rows.beside(outcome)
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
                "task": member.row["task"],
                "model": member.row["model"],
                "cell_id": member.row["cell_id"],
                "weight": weight,
            }
            for member, weight in outcome.members
        ],
        "cells": rows.cells(outcome),
        "choice": [
            {
                "added": stage.added.row["cell_id"],
                "held_score": stage.held,
                "dev_score": stage.dev,
                "taken": size == outcome.size,
            }
            for size, stage in enumerate(outcome.stages, start=1)
        ],
        "notes": notes_of(outcome),
        **_published_as_json(candidates.task, beside=beside),
    }


def _published_as_json(task: str, *, beside: bool) -> dict[str, Any]:
    if not beside:
        return {}
    return {"published": [asdict(of) for of in published(task)], "published_caveat": caveat(task)}


class Printer:
    """Prints to stdout.

    Args:
        beside: whether published scores are shown too.
    """

    def __init__(self, *, beside: bool) -> None:
        console = Console(highlight=False)
        self._console = console if console.is_terminal else Console(highlight=False, width=_WIDTH)
        self._beside = beside

    def task(self, outcome: Outcome) -> None:
        """An ensemble of a task, and what stands beside it."""
        candidates = outcome.candidates
        among = count(len(candidates.members), "cell")
        average = f"the average of {outcome.average}, members chosen among {among}"
        self._say(f"{candidates.task}: {average}")
        self._scores(candidates.metric, [outcome.ensemble, outcome.best, *outcome.others])
        for member, weight in outcome.members:
            self._say(f"  {weight} × {candidates.name_of(member)}")
        self._say(f"against the best member alone: {_gain_text(outcome.gain)}")
        for note in notes_of(outcome):
            self._say(f"note: {note}")
        self._published(candidates.task)

    def together(self, overall: Together) -> None:
        """The overall score of ensembles of several tasks."""
        self._say("")
        self._say(f"all together: {overall.counted}")
        self._scores(OVERALL, [overall.ensembles, overall.best, *overall.others])
        self._say(f"against the best members alone: {_gain_text(overall.gain)}")
        for note in overall.notes:
            self._say(f"note: {note}")
        self._published(MULTITASK)

    def _scores(self, metric: str, scored: Sequence[Scored]) -> None:
        table = Table(box=None)
        for head in ("", f"dev {metric}", "95% interval", "held out", "parameters"):
            table.add_column(head, justify="right" if head else "left", no_wrap=bool(head))
        for of in scored:
            name = of.kind if of.name == of.kind else f"{of.kind}: {of.name}"
            held = "–" if of.held is None else f"{of.held:.3f}"
            parameters = "–" if of.parameters is None else f"{of.parameters:,}"
            table.add_row(
                Text(plain(name)), f"{of.dev.value:.3f}", _interval_text(of.dev), held, parameters
            )
        self._console.print(table)

    def _published(self, task: str) -> None:
        found = published(task) if self._beside else ()
        if not found:
            return
        table = Table(box=None)
        for head in ("model", "parameters", "score", "metric", "of", "source"):
            table.add_column(head, justify="right" if head in ("parameters", "score") else "left")
        for of in found:
            parameters = "–" if of.parameters is None else f"{of.parameters:,}"
            table.add_row(of.model, parameters, f"{of.score:.3f}", of.metric, of.split, of.source)
        self._say(caveat(task))
        self._console.print(table)

    def _say(self, line: str) -> None:
        self._console.print(plain(line), markup=False, soft_wrap=True)


def _gain_text(gain: Interval) -> str:
    return f"{gain.value:+.3f} ({_interval_text(gain)})"


def _interval_text(interval: Interval) -> str:
    return span(interval, lambda value: f"{value:.3f}") or "no interval"
