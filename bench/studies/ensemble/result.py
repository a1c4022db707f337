"""Ensembles of one task and of several: the choice of members by averages of their predictions, the
scores on dev and those of baselines, and these as rows of a CSV and as JSON. Pure.

Letters in shapes: N examples, C outputs of the task's head.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import InputError
from bench.common.files import read_tables
from bench.plan.cell import MULTITASK
from bench.plan.columns import PART_SCORES
from bench.plan.metrics import OVERALL
from bench.report.text import count
from bench.results.outcomes import Values
from bench.results.overall import counted, overall, overall_interval
from bench.results.predictions import mean_of_parts, values_for
from bench.results.scores import probabilities, score_of
from bench.stats.intervals import Floats, Interval, spread
from bench.studies.ensemble.members import Member, Pool
from minbert.data.metrics import constant, score
from minbert.data.tasks import TASKS

LOGITS, PROBABILITIES = "logits", "probabilities"
AVERAGES: Final = (LOGITS, PROBABILITIES)

Weights = tuple[tuple[int, int], ...]
"""Pairs of a model's index and how often it counts, the highest weight first."""
ENSEMBLE: Final = "ensemble"
BEST: Final = "best member"
ALL: Final = "average of all cells"
CELL: Final = "cell alone"
_PLURALS: Final = {ENSEMBLE: "ensembles", BEST: "best members"}
_PUBLISHED: Final = read_tables(__file__, "published.toml")
"""Scores of leading models from papers, by task, which are shown below an ensemble's."""


class Choice(NamedTuple):
    """The members of an ensemble and its score on held-out examples. `additions` are all steps of
    the greedy choice, later ones that were not taken included: the index of the model that was
    added, and the held-out score after it; −∞ where it has none."""

    weights: Weights
    held_score: float | None
    additions: Sequence[tuple[int, float]]


def as_averaged(logits: NDArray[np.generic], metric: str, average: str) -> Floats:
    """A model's logits [N, C] as they enter the average: unchanged, or as probabilities. A single
    logit z [N, 1] for two classes becomes two, −z / 2 and z / 2, so that models with either kind of
    head can be averaged. Predicted numbers [N, 1] are scaled to mean 0 and std 1 instead: models
    that learned a correlation have no common scale. ValueError if they are all the same."""
    values = logits.astype(np.float64)
    if metric == "pearson":
        std = values.std()
        if constant(values) or not std > 0:
            raise ValueError("its predictions are all the same, so they have no correlation")
        return np.asarray((values - values.mean()) / std)
    if average == PROBABILITIES:
        return probabilities(values)
    return np.concatenate([-values / 2, values / 2], axis=1) if values.shape[1] == 1 else values


def averaged(predictions: Sequence[Floats], weights: Weights) -> Floats:
    """The ensemble's predictions [N, C], from those of each model as `as_averaged` returns them."""
    total = sum(weight * predictions[index] for index, weight in weights)
    return np.asarray(total / sum(weight for _, weight in weights))


def choose(
    predictions: Sequence[Floats],
    labels: NDArray[np.generic],
    metric: str,
    *,
    most: int = 25,
    among: Sequence[int] | None = None,
) -> Choice:
    """An ensemble chosen greedily (Caruana et al. 2004): each step adds the model that raises the
    score most; a model can be added more than once.

    The best model alone comes first. Of all sizes up to `most`, each member counted by its weight,
    the smallest with the highest score is taken. Ties go to the model that scores higher alone,
    then to the one that comes first in `among`, indices of the models to choose from. Predictions
    are those of each model on held-out examples, [N, C], as `as_averaged` returns them.
    """
    indices = list(range(len(predictions)) if among is None else among)

    def score_of(values: Floats) -> float:
        value = score(metric, values, labels)
        return -np.inf if value is None else value

    alone = {index: score_of(predictions[index]) for index in indices}
    order = sorted(indices, key=lambda index: -alone[index])
    additions = [(order[0], alone[order[0]])]
    total = predictions[order[0]].copy()
    for size in range(2, most + 1):
        scores = [score_of((total + predictions[index]) / size) for index in order]
        best = int(np.argmax(scores))  # the first of equal ones
        total += predictions[order[best]]
        additions.append((order[best], scores[best]))
    taken = int(np.argmax([held_score for _, held_score in additions]))
    members = Counter(index for index, _ in additions[: taken + 1])
    weights = sorted(members.items(), key=lambda item: (-item[1], indices.index(item[0])))
    return Choice(tuple(weights), additions[taken][1], additions)


class Published(NamedTuple):
    """A score from a paper; `parameters` of the model are None where not known."""

    task: str
    model: str
    parameters: int | None
    score: float
    metric: str
    split: str
    source: str


def published(task: str) -> list[Published]:
    """A task's published scores, lowest first."""
    scores = _PUBLISHED.get(task, {}).get("scores", ())
    each = [Published(**{"task": task, "parameters": None, **score}) for score in scores]
    return sorted(each, key=lambda published: published.score)


def caveat(task: str) -> str:
    other = _PUBLISHED[task]["examples"] if task in _PUBLISHED else "other examples"
    return f"published scores, of {other}: what can be reached, not what was compared"


@dataclass(frozen=True)
class Entry:
    """An ensemble, a cell or a baseline with its score on dev."""

    kind: str  # the same for every task, such as `ensemble` or `best member`
    name: str  # such as a cell's name; the kind, where it has no name of its own
    dev: Interval
    values: Values  # a number for each dev example [N], whose mean is the score
    held_score: float | None = None  # on held-out examples; None: it didn't predict them
    members: tuple[Member, ...] = ()  # the cells whose parameters it has; empty: not known

    @property
    def label(self) -> str:
        return self.kind if self.name == self.kind else f"{self.kind}: {self.name}"

    @property
    def parameters(self) -> int | None:
        """Parameters of all members together; None where they are not known. A cell counts once,
        and so does a frozen encoder that several cells share."""
        if not self.members:
            return None
        own = {member.row.cell_id: member.own_parameters for member in self.members}
        shared: dict[Any, int] = {}
        for member in self.members:
            model = member.row.model_digest
            frozen = int(member.row.params_total or 0) - member.own_parameters
            shared[model] = max(shared.get(model, 0), frozen)
        return sum(own.values()) + sum(shared.values())

    def less(self, other: "Entry") -> Interval:
        return spread((self.values - other.values)[None]).interval()


class Stage(NamedTuple):
    """The ensemble after one step of the greedy choice, which added a member, with its scores; None
    where all predictions are the same number."""

    added: Member
    held_score: float | None
    dev_score: float | None


@dataclass(frozen=True, kw_only=True)
class Result:
    """An ensemble, or those of several tasks together, and what it is compared with."""

    task: str  # of several, such as `sst+sts`
    metric: str
    ensemble: Entry
    best: Entry
    others: Sequence[Entry] = ()  # baselines, as far as they were asked for
    published: Sequence[Published] | None = None  # scores from papers; None: not asked for
    notes: tuple[str, ...] = ()  # remarks for the user, a line each, on the data too
    problems: tuple[str, ...] = ()  # failures, a line each

    @property
    def compared(self) -> list[Entry]:
        return [self.ensemble, self.best, *self.others]

    @property
    def gain(self) -> Interval:
        """Score of the ensemble less that of the best member, paired by example."""
        return self.ensemble.less(self.best)

    def differences(self, entry: Entry) -> tuple[Interval | None, Interval | None]:
        """An entry's score less the best member's and the ensemble's; None for those themselves."""
        is_best = entry is self.best or (
            entry.kind == CELL and entry.members[0] is self.best.members[0]
        )
        return (
            None if is_best else entry.less(self.best),
            None if entry is self.ensemble else entry.less(self.ensemble),
        )


@dataclass(frozen=True, kw_only=True)
class TaskResult(Result):
    """An ensemble of one task, with the score of each candidate `alone`, all steps of the choice,
    later ones that were not taken included, and the best member of each other encoder than the best
    member's."""

    pool: Pool
    average: str
    members: Sequence[tuple[Member, int]]
    alone: Sequence[Entry]
    stages: Sequence[Stage]
    encoders: Sequence[Entry]

    @property
    def best_member(self) -> Member:
        """The cell with the highest score on held-out examples."""
        return self.best.members[0]

    @property
    def size(self) -> int:
        return sum(weight for _, weight in self.members)

    def with_notes(self, *notes: str) -> "TaskResult":
        return replace(self, notes=(*self.notes, *notes))


@dataclass(frozen=True, kw_only=True)
class Overall(Result):
    """The ensembles of several parts of task `multitask`; `missing` are those without one."""

    parts: tuple[str, ...]
    missing: tuple[str, ...]


def ensemble_of(pool: Pool, average: str, most: int) -> TaskResult:
    """Choose an ensemble of `most` members at most, each counted by its weight, on held-out
    examples, and score it on dev.

    The best member has the highest score on held-out examples: dev chooses nothing. Ties go to the
    lowest cell id, so that the order of rows doesn't matter. InputError for predicted numbers or
    labels that are all the same, or members with different classes.
    """
    task, metric, members = pool.task, pool.metric, pool.members
    if metric == "pearson" and not np.ptp(pool.held_labels):
        raise InputError(f"{task}: the labels that were held out are all the same; hold out more")
    if metric == "pearson" and not np.ptp(pool.labels):
        raise InputError(f"{task}: the dev labels are all the same; run cells on more of them")
    held_out, dev = (_averaged(pool, average, name) for name in ("held_logits", "logits"))
    if len({predictions.shape[1] for predictions in (*held_out, *dev)}) > 1:
        raise InputError(f"{task}: cells predict different numbers of classes; keep them apart")
    choice_of = partial(choose, held_out, pool.held_labels, metric)
    entry = partial(_average, pool, dev)
    by_id = sorted(range(len(members)), key=lambda index: str(members[index].row.cell_id))
    choice, best_alone = choice_of(most=most, among=by_id), choice_of(most=1, among=by_id)
    best = members[best_alone.weights[0][0]]
    encoders = []
    for digest, label in _encoders(members).items():
        if digest != best.row.model_digest:
            own = [i for i in by_id if str(members[i].row.model_digest) == digest]
            first = choice_of(most=1, among=own)
            encoders.append(entry(first, f"best of {label}", members[first.weights[0][0]].row.name))
    notes = list(TASKS[task].notes) if task in TASKS else []
    if pool.left_out:
        cells = count(pool.left_out, "cell")
        notes.append(f"{cells} of {task} left out: made on other examples than the others")
    return TaskResult(
        task=task,
        metric=metric,
        pool=pool,
        average=average,
        ensemble=entry(choice, ENSEMBLE),
        best=entry(best_alone, BEST, pool.label_of(best)),
        members=[(members[index], weight) for index, weight in choice.weights],
        alone=[
            entry(choice_of(most=1, among=[index]), CELL, pool.label_of(member))
            for index, member in enumerate(members)
        ],
        stages=_stages(pool, choice, dev),
        encoders=encoders,
        notes=tuple(notes),
    )


def average_of_all(pool: Pool, average: str) -> Entry:
    """The average of all cells with equal weights, which the choice has to beat; InputError for
    predictions that can't be averaged, or whose average is constant."""
    held_out, dev = (_averaged(pool, average, name) for name in ("held_logits", "logits"))
    weights = tuple((index, 1) for index in range(len(dev)))
    held_score = score(pool.metric, averaged(held_out, weights), pool.held_labels)
    return _average(pool, dev, Choice(weights, held_score, ()), ALL)


def entry_for(
    pool: Pool,
    kind: str,
    predictions: Floats,
    name: str = "",
    held_score: float | None = None,
    members: tuple[Member, ...] = (),
) -> Entry:
    """An entry of predictions [N, C] on the pool's dev examples; ValueError if all are the same."""
    values = values_for(pool.metric, predictions, pool.labels)
    return Entry(kind, name or kind, score_of(pool.metric, [values]), values, held_score, members)


def _average(pool: Pool, dev: Sequence[Floats], choice: Choice, kind: str, name: str = "") -> Entry:
    members = tuple(pool.members[index] for index, _ in choice.weights)
    try:
        predictions = averaged(dev, choice.weights)
        return entry_for(pool, kind, predictions, name, choice.held_score, members)
    except ValueError as error:
        raise InputError(f"{pool.task}: the {kind} can't be scored: {error}") from error


def _stages(pool: Pool, choice: Choice, dev: Sequence[Floats]) -> list[Stage]:
    stages, total = [], np.zeros_like(dev[0])
    for size, (index, held) in enumerate(choice.additions, start=1):
        total = total + dev[index]
        dev_score = score(pool.metric, total / size, pool.labels)
        held_score = held if np.isfinite(held) else None
        stages.append(Stage(pool.members[index], held_score, dev_score))
    return stages


def _averaged(pool: Pool, average: str, name: str) -> list[Floats]:
    predictions = []
    for member in pool.members:
        try:
            predictions.append(as_averaged(member.arrays[name], pool.metric, average))
        except ValueError as error:
            message = f"{member.row.name} can't be averaged: {error}; take its row out"
            raise InputError(message) from error
    return predictions


def _encoders(members: Sequence[Member]) -> Mapping[str, str]:
    """Distinct names of the members' encoders, by digest."""
    models = {member.row.model_digest: member.row.model for member in members}
    uses = Counter(models.values())
    return {
        digest: name if uses[name] == 1 else f"{name} {digest[:6]}"
        for digest, name in models.items()
    }


def overall_of(results: Sequence[TaskResult]) -> Overall | None:
    """The overall scores of several parts of task `multitask`, with the baselines that all of them
    have; None for one task, and for tasks that are not its parts and so have no common score."""
    parts = tuple(result.task for result in results)
    if len(parts) < 2 or not set(parts) <= PART_SCORES.keys():
        return None
    missing = tuple(part for part in PART_SCORES if part not in parts)
    others = [{entry.kind: entry for entry in result.others} for result in results]
    notes = [f"{part}: {note}" for part in parts for note in TASKS[part].notes]
    if missing:
        names = " and ".join(missing)
        notes.insert(0, f"no ensemble of {names} is in it, so it is no score of all three")
    asked = all(result.published is not None for result in results)
    return Overall(
        task="+".join(parts),
        metric=OVERALL,
        parts=parts,
        missing=missing,
        ensemble=_mean(parts, [result.ensemble for result in results]),
        best=_mean(parts, [result.best for result in results]),
        others=[
            _mean(parts, [entries[kind] for entries in others])
            for kind in others[0]
            if all(kind in entries for entries in others)
        ],
        published=published(MULTITASK) if asked else None,
        notes=tuple(notes),
    )


def _mean(parts: Sequence[str], entries: Sequence[Entry]) -> Entry:
    of_parts = dict(zip(parts, entries, strict=True))
    name = _PLURALS.get(entries[0].kind, entries[0].kind)
    return Entry(
        kind=name,
        name=name,
        dev=overall_interval(
            {part: entry.dev.value for part, entry in of_parts.items()},
            {part: len(entry.values) for part, entry in of_parts.items()},
        ),
        values=mean_of_parts([counted(part, entry.values) for part, entry in of_parts.items()]),
        held_score=overall({part: entry.held_score for part, entry in of_parts.items()}),
        members=tuple(member for entry in entries for member in entry.members)
        if all(entry.members for entry in entries)
        else (),
    )


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
