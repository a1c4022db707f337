"""An ensemble of one task, its members and its score on dev beside other entries. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import InputError
from bench.report.text import count
from bench.results.outcomes import Values
from bench.results.predictions import values_for
from bench.stats.intervals import Interval, spread
from bench.studies.ensemble.averages import Choice, Floats, as_averaged, averaged, choose
from bench.studies.ensemble.members import Candidates, Member
from minbert.data.metrics import score
from minbert.data.tasks import TASKS

ENSEMBLE: Final = "ensemble"
BEST: Final = "best member"
ALL: Final = "average of all cells"
CELL: Final = "cell alone"


@dataclass(frozen=True)
class Entry:
    """An ensemble, a cell or a baseline with its score on dev.

    Attributes:
        kind: the same for every task, such as `ensemble` or `best member`.
        name: such as a cell's name; the kind, where it has no name of its own.
        dev: the score with its interval.
        values: a number for each dev example, [N], whose mean is the score.
        held_score: the score on held-out examples; None for a baseline that didn't predict them.
        members: the cells whose parameters it has, or as many as; empty where not known.
    """

    kind: str
    name: str
    dev: Interval
    values: Values
    held_score: float | None = None
    members: tuple[Member, ...] = ()

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
            shared[model] = max(shared.get(model, 0), member.shared_parameters)
        return sum(own.values()) + sum(shared.values())


class Stage(NamedTuple):
    """The ensemble after one step of the greedy choice, which added a member, with its scores; None
    where all predictions are the same number."""

    added: Member
    held_score: float | None
    dev_score: float | None


@dataclass(frozen=True)
class Outcome:
    """An ensemble of one task, its best member, and the entries they are compared with.

    Attributes:
        average: what is averaged, `logits` or `probabilities`.
        members: the ensemble's members with their weights.
        alone: each candidate by itself, in their order.
        stages: all steps of the choice, later ones that were not taken included.
        encoders: the best member of each encoder other than the best member's.
        others: baselines, those best members included, as far as they were asked for.
        notes: remarks for the user, a line each; `problems`: failures, a line each.
    """

    candidates: Candidates
    average: str
    ensemble: Entry
    best: Entry
    members: Sequence[tuple[Member, int]]
    alone: Sequence[Entry]
    stages: Sequence[Stage]
    encoders: Sequence[Entry]
    others: Sequence[Entry] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def best_member(self) -> Member:
        """The cell with the highest score on held-out examples."""
        return self.best.members[0]

    @property
    def gain(self) -> Interval:
        """Score of the ensemble less that of the best member, paired by example."""
        return gain_of(self.ensemble, self.best)

    @property
    def size(self) -> int:
        """The sum of all members' weights."""
        return sum(weight for _, weight in self.members)

    @property
    def all_notes(self) -> list[str]:
        """The notes, those on the task's data first."""
        task = TASKS.get(self.candidates.task)
        return [*(task.notes if task else ()), *self.notes]


def gain_of(entry: Entry, other: Entry) -> Interval:
    """The difference of two scores on the same examples, with its interval."""
    return spread((entry.values - other.values)[None]).interval()


def ensemble_of(candidates: Candidates, average: str, most: int) -> Outcome:
    """Choose an ensemble on held-out examples, and score it on dev.

    The best member has the highest score on held-out examples: dev chooses nothing. Ties go to the
    lowest cell id, so that the order of rows doesn't matter.

    Args:
        average: `logits` or `probabilities`.
        most: the largest size, each member counted by its weight.

    Raises:
        InputError: for predicted numbers or labels that are all the same, or members with
            different classes.
    """
    task, metric, members = candidates.task, candidates.metric, candidates.members
    if metric == "pearson" and not np.ptp(candidates.held_labels):
        raise InputError(f"{task}: the labels that were held out are all the same; hold out more")
    if metric == "pearson" and not np.ptp(candidates.labels):
        raise InputError(f"{task}: the dev labels are all the same; run cells on more of them")
    held, dev = _predictions(candidates, average)
    if len({predictions.shape[1] for predictions in (*held, *dev)}) > 1:
        raise InputError(f"{task}: cells predict different numbers of classes; keep them apart")

    def choice_of(indices: Sequence[int], most: int = 1) -> Choice:
        return choose(held, candidates.held_labels, metric, most=most, among=indices)

    def entry(kind: str, choice: Choice, name: str = "") -> Entry:
        return _ensemble_entry(candidates, dev, choice, kind, name)

    by_id = sorted(range(len(members)), key=lambda index: str(members[index].row.cell_id))
    choice, best_alone = choice_of(by_id, most), choice_of(by_id)
    best = members[best_alone.weights[0][0]]
    encoders = []
    for digest, label in _encoders(members).items():
        if digest != best.row.model_digest:
            indices = [i for i in by_id if str(members[i].row.model_digest) == digest]
            first = choice_of(indices)
            encoders.append(entry(f"best of {label}", first, members[first.weights[0][0]].name))
    left_out = f"{count(candidates.left_out, 'cell')} of {task} left out"
    return Outcome(
        candidates=candidates,
        average=average,
        ensemble=entry(ENSEMBLE, choice),
        best=entry(BEST, best_alone, candidates.name_of(best)),
        members=[(members[index], weight) for index, weight in choice.weights],
        alone=[
            entry(CELL, choice_of([index]), candidates.name_of(member))
            for index, member in enumerate(members)
        ],
        stages=_stages(candidates, choice, dev),
        encoders=encoders,
        notes=(f"{left_out}: made on other examples than the others",)
        if candidates.left_out
        else (),
    )


def average_of_all(candidates: Candidates, average: str) -> Entry:
    """The average of all candidates with equal weights, which the choice has to beat.

    Raises:
        InputError: for predictions that can't be averaged, or whose average is constant.
    """
    held, dev = _predictions(candidates, average)
    choice = Choice(tuple((index, 1) for index in range(len(dev))), held_score=0.0)
    entry = _ensemble_entry(candidates, dev, choice, ALL)
    held_score = score(candidates.metric, averaged(held, choice), candidates.held_labels)
    return replace(entry, held_score=held_score)


def entry_for(
    candidates: Candidates,
    kind: str,
    predictions: Floats,
    name: str = "",
    held_score: float | None = None,
    members: tuple[Member, ...] = (),
) -> Entry:
    """An entry of predictions [N, C] on the candidates' dev examples.

    Raises:
        ValueError: for predicted numbers that are all the same.
    """
    values = values_for(candidates.metric, predictions, candidates.labels)
    return Entry(kind, name or kind, spread(values[None]).interval(), values, held_score, members)


def _ensemble_entry(
    candidates: Candidates, dev: Sequence[Floats], choice: Choice, kind: str, name: str = ""
) -> Entry:
    """The entry of a choice of candidates, from the predictions of all of them on dev.

    Raises:
        InputError: if its predictions are all the same number.
    """
    members = tuple(candidates.members[index] for index, _ in choice.weights)
    try:
        predictions = averaged(dev, choice)
        return entry_for(candidates, kind, predictions, name, choice.held_score, members)
    except ValueError as error:
        raise InputError(f"{candidates.task}: the {kind} can't be scored: {error}") from error


def _stages(candidates: Candidates, choice: Choice, dev: Sequence[Floats]) -> list[Stage]:
    """The steps of a choice, with their scores on dev."""
    stages, total = [], np.zeros_like(dev[0])
    for size, addition in enumerate(choice.additions, start=1):
        total = total + dev[addition.index]
        held_score = addition.held_score if np.isfinite(addition.held_score) else None
        dev_score = score(candidates.metric, total / size, candidates.labels)
        stages.append(Stage(candidates.members[addition.index], held_score, dev_score))
    return stages


def _predictions(candidates: Candidates, average: str) -> tuple[list[Floats], list[Floats]]:
    """All candidates' predictions as they enter the average: on held-out examples, and on dev."""

    def predictions(member: Member, logits: NDArray[np.float32]) -> Floats:
        try:
            return as_averaged(logits, candidates.metric, average)
        except ValueError as error:
            raise InputError(
                f"{member.name} can't be averaged: {error}; take its row out"
            ) from error

    members = candidates.members
    return (
        [predictions(member, member.held_logits) for member in members],
        [predictions(member, member.logits) for member in members],
    )


def _encoders(members: Sequence[Member]) -> Mapping[str, str]:
    """Distinct names of the members' encoders, by digest."""
    models = {member.row.model_digest: member.row.model for member in members}
    uses = Counter(models.values())
    return {
        digest: name if uses[name] == 1 else f"{name} {digest[:6]}"
        for digest, name in models.items()
    }
