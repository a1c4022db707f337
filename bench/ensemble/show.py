"""What an ensemble's command prints: tables on a terminal, or JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.ensemble.members import Candidates, Member
from bench.ensemble.outcome import Outcome, Scored
from bench.ensemble.published import CAVEAT, published
from bench.ensemble.together import Together
from bench.report.text import count, plain, span
from bench.schema import CORRELATED, MULTITASK, OVERALL
from bench.stats import Interval
from minbert.tasks import TASKS

_WIDTH: Final = 120
"""Characters of a line where there is no terminal to ask."""


def notes_of(outcome: Outcome) -> list[str]:
    """What there is to say beside scores of a task: of its data, and of what is left out."""
    task = TASKS.get(outcome.candidates.task)
    return [*(task.notes if task else ()), *outcome.notes]


def outcomes_as_json(
    outcomes: Sequence[Outcome], overall: Together | None, *, beside: bool
) -> dict[str, Any]:
    """What is told of one task, or of several tasks and all of them together.

    Args:
        beside: whether published scores are told too.
    """
    tasks = [_task_as_json(outcome, beside=beside) for outcome in outcomes]
    if overall is None:
        return tasks[0]
    told: dict[str, Any] = {
        "metric": OVERALL,
        "parts": list(overall.parts),
        "missing": list(overall.missing),
        "ensemble": _scored_as_json(overall.ensembles),
        "best_members": _scored_as_json(overall.best),
        "baselines": [_scored_as_json(of) for of in overall.others],
        "gain": vars(overall.gain),
        **_published_as_json(MULTITASK, beside=beside),
    }
    return {"tasks": tasks, "overall": told}


def _task_as_json(outcome: Outcome, *, beside: bool) -> dict[str, Any]:
    candidates = outcome.candidates
    return {
        "task": candidates.task,
        "metric": candidates.metric,
        "average": outcome.average,
        "candidates": len(candidates.members),
        "ensemble": _scored_as_json(outcome.ensemble),
        "best_member": _scored_as_json(outcome.best),
        "baselines": [_scored_as_json(of) for of in outcome.others],
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
        "notes": notes_of(outcome),
        **_published_as_json(candidates.task, beside=beside),
    }


def _scored_as_json(of: Scored) -> dict[str, Any]:
    models = {str(member.row["model"]) for member in of.members}
    return {
        "kind": of.kind,
        "name": of.name,
        "model": models.pop() if len(models) == 1 else None,
        "dev_score": of.dev.value,
        "dev_ci_low": of.dev.low,
        "dev_ci_high": of.dev.high,
        "held_score": of.held,
        "parameters": of.parameters,
    }


def _published_as_json(task: str, *, beside: bool) -> dict[str, Any]:
    if not beside:
        return {}
    return {"published": [asdict(of) for of in published(task)], "published_caveat": CAVEAT}


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
            self._say(f"  {weight} × {_told_member(member, candidates)}")
        self._say(f"against the best member alone: {_told_gain(outcome.gain)}")
        for note in notes_of(outcome):
            self._say(f"note: {note}")
        self._published(candidates.task)

    def together(self, overall: Together) -> None:
        """The overall score of ensembles of several tasks."""
        parts = [
            f"(1 + r) / 2 on {part}" if part in CORRELATED else f"accuracy on {part}"
            for part in overall.parts
        ]
        lacking = "".join(f", without {part}" for part in overall.missing)
        self._say("")
        self._say(f"all together: the mean of {', '.join(parts)}{lacking}")
        self._scores(OVERALL, [overall.ensembles, overall.best, *overall.others])
        self._say(f"against the best members alone: {_told_gain(overall.gain)}")
        if overall.missing:
            missing = " and ".join(overall.missing)
            self._say(f"note: no ensemble of {missing} is in it, so it is no score of all three")
        self._published(MULTITASK)

    def _scores(self, metric: str, rows: Sequence[Scored]) -> None:
        table = Table(box=None)
        for head in ("", f"dev {metric}", "95% interval", "held out", "parameters"):
            table.add_column(head, justify="right" if head else "left", no_wrap=bool(head))
        for of in rows:
            name = of.kind if of.name == of.kind else f"{of.kind}: {of.name}"
            held = "–" if of.held is None else f"{of.held:.3f}"
            parameters = "–" if of.parameters is None else f"{of.parameters:,}"
            table.add_row(Text(plain(name)), f"{of.dev.value:.3f}", _told(of.dev), held, parameters)
        self._console.print(table)

    def _published(self, task: str) -> None:
        rows = published(task) if self._beside else ()
        if not rows:
            return
        table = Table(box=None)
        for head in ("model", "parameters", "score", "metric", "of", "source"):
            table.add_column(head, justify="right" if head in ("parameters", "score") else "left")
        for of in rows:
            parameters = "–" if of.parameters is None else f"{of.parameters:,}"
            table.add_row(of.model, parameters, f"{of.score:.3f}", of.metric, of.split, of.source)
        self._say(CAVEAT)
        self._console.print(table)

    def _say(self, line: str) -> None:
        self._console.print(plain(line), markup=False, soft_wrap=True)


def _told_member(member: Member, candidates: Candidates) -> str:
    """A member's name, with what its cell learned if more than the task, and with its model where
    there are several."""
    learned, told = str(member.row["task"]), [member.name]
    models = {of.row["model_digest"] for of in candidates.members}
    told += [learned] if learned != candidates.task else []
    told += [str(member.row["model"])] if len(models) > 1 else []
    return ", ".join(told)


def _told_gain(gain: Interval) -> str:
    return f"{gain.value:+.3f} ({_told(gain)})"


def _told(interval: Interval) -> str:
    return span(interval, lambda value: f"{value:.3f}") or "no interval"
