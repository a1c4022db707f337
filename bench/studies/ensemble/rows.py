"""Who is scored as rows of one set of columns, from which JSON, CSV and pages take theirs. Pure."""

from collections.abc import Sequence
from typing import Any, Final

from bench.plan.cell import OVERALL
from bench.stats.intervals import Interval
from bench.studies.ensemble.outcome import CELL, Outcome, Scored, gain_of
from bench.studies.ensemble.together import Together

Row = dict[str, Any]

COLUMNS: Final = (
    *("task", "metric", "kind", "name", "model", "cell_id", "weight", "members", "parameters"),
    *("dev_score", "dev_ci_low", "dev_ci_high"),
    *("difference", "difference_ci_low", "difference_ci_high"),
    *("to_ensemble", "to_ensemble_ci_low", "to_ensemble_ci_high", "held_score"),
)
"""Of the CSV. A row's difference is its dev score less that of the best member, example by example;
the best member has none. `to_ensemble` is the same to the ensemble."""


def scored_row(of: Scored, best: Scored, ensemble: Scored) -> Row:
    """Who is scored, beside the best member and the ensemble on the same examples.

    `members` counts cells, each once; it and `parameters` are None where they are not told.
    """
    models = {str(member.row["model"]) for member in of.members}
    ids = {member.row["cell_id"] for member in of.members}
    difference = None if _same(of, best) else gain_of(of, best)
    behind = None if of is ensemble else gain_of(of, ensemble)
    return {
        "kind": of.kind,
        "name": of.name,
        "model": models.pop() if len(models) == 1 else None,
        "members": len(ids) or None,
        "parameters": of.parameters,
        **_with_ends("dev_score", "dev", of.dev),
        **_with_ends("difference", "difference", difference),
        **_with_ends("to_ensemble", "to_ensemble", behind),
        "held_score": of.held,
    }


def beside(outcome: Outcome) -> list[Row]:
    """An ensemble, its best member, and what is scored beside them."""
    scored = (outcome.ensemble, outcome.best, *outcome.others)
    return [scored_row(of, outcome.best, outcome.ensemble) for of in scored]


def all_beside(overall: Together) -> list[Row]:
    """The same of all tasks together."""
    scored = (overall.ensembles, overall.best, *overall.others)
    return [scored_row(of, overall.best, overall.ensembles) for of in scored]


def cells(outcome: Outcome) -> list[Row]:
    """Each candidate alone, in their order, with how many times it counts in the ensemble."""
    weights = {member.row["cell_id"]: weight for member, weight in outcome.members}
    found: list[Row] = []
    for of in outcome.alone:
        cell_id = of.members[0].row["cell_id"]
        row = scored_row(of, outcome.best, outcome.ensemble)
        found.append({**row, "cell_id": cell_id, "weight": weights.get(cell_id, 0)})
    return found


def csv_rows(outcomes: Sequence[Outcome], overall: Together | None) -> list[Row]:
    """All of them with `COLUMNS`, task by task; the tasks together are called `sst+sts`."""
    blank: Row = dict.fromkeys(COLUMNS)
    found: list[Row] = []
    for outcome in outcomes:
        of = {"task": outcome.candidates.task, "metric": outcome.candidates.metric}
        found += [{**blank, **of, **row} for row in (*beside(outcome), *cells(outcome))]
    if overall is not None:
        of = {"task": "+".join(overall.parts), "metric": OVERALL}
        found += [{**blank, **of, **row} for row in all_beside(overall)]
    return found


def _same(of: Scored, best: Scored) -> bool:
    return of is best or (of.kind == CELL and of.members[0] is best.members[0])


def _with_ends(name: str, prefix: str, interval: Interval | None) -> Row:
    value, low, high = (
        (None, None, None) if interval is None else (interval.value, interval.low, interval.high)
    )
    return {name: value, f"{prefix}_ci_low": low, f"{prefix}_ci_high": high}
