"""What an ensemble gives on dev, and what is scored beside it on the same examples. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bench.common.errors import InputError
from bench.report.text import count
from bench.results.outcomes import Values
from bench.results.predictions import values_for
from bench.stats.intervals import Interval, spread
from bench.studies.ensemble.averages import Addition, Choice, Floats, as_averaged, averaged, choose
from bench.studies.ensemble.members import Candidates, Member
from minbert.data.metrics import score
from minbert.data.tasks import TASKS

ENSEMBLE: Final = "ensemble"
BEST: Final = "best member"
ALL: Final = "average of all cells"
CELL: Final = "cell alone"


@dataclass(frozen=True)
class Scored:
    """Who is scored on dev, and how.

    Attributes:
        kind: what it is, the same for every task: an ensemble, a best member, a baseline.
        name: who it is, such as a cell's name; of what has none, its kind.
        dev: the score with its interval.
        values: a number for each dev example, [N], whose mean is the score.
        held: the score on what was held out; None for what is no member.
        members: the cells that hold its parameters, or as many; none where they are not told.
    """

    kind: str
    name: str
    dev: Interval
    values: Values
    held: float | None = None
    members: tuple[Member, ...] = ()

    @property
    def parameters(self) -> int | None:
        """Those of all members together; None where they are not told."""
        return parameters_of(self.members) if self.members else None


@dataclass(frozen=True)
class Stage:
    """An ensemble as it was at one stage of the choice.

    Attributes:
        added: the member that came in.
        held, dev: what all that were in by then score together, on what was held out and on dev;
            None where they predict the same for all examples.
    """

    added: Member
    held: float | None
    dev: float | None


@dataclass(frozen=True)
class Outcome:
    """An ensemble of one task, its best member, and what is scored beside them.

    Attributes:
        average: what is averaged, `logits` or `probabilities`.
        members: who is in the ensemble, and how many times each counts.
        alone: each candidate by itself, in their order.
        stages: the ensemble as it was chosen, addition by addition, those that were not taken too.
        encoders: the best member of each encoder but that of the best of all.
        others: what is shown beside: baselines, a peer, those of other encoders.
        notes: what there is to say, a line each; `problems`: what went wrong.
    """

    candidates: Candidates
    average: str
    ensemble: Scored
    best: Scored
    members: Sequence[tuple[Member, int]]
    alone: Sequence[Scored]
    stages: Sequence[Stage]
    encoders: Sequence[Scored]
    others: Sequence[Scored] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def best_member(self) -> Member:
        """The cell of the highest score on what was held out."""
        return self.best.members[0]

    @property
    def gain(self) -> Interval:
        """How much better the ensemble is than the best member, example by example."""
        return gain_of(self.ensemble, self.best)

    @property
    def size(self) -> int:
        """How many are averaged, each member as often as it counts."""
        return sum(weight for _, weight in self.members)


def gain_of(one: Scored, other: Scored) -> Interval:
    """The difference of two scores on the same examples, with its interval."""
    return spread((one.values - other.values)[None]).interval()


def notes_of(outcome: Outcome) -> list[str]:
    """What there is to say beside scores of a task: of its data, and of what is left out."""
    task = TASKS.get(outcome.candidates.task)
    return [*(task.notes if task else ()), *outcome.notes]


def ensemble_of(candidates: Candidates, average: str, most: int) -> Outcome:
    """Choose an ensemble on what was held out, and score it on dev.

    The best member is that of the highest score on what was held out: dev chooses nothing. Of cells
    that score the same the first by its id is taken, so that the order of rows doesn't matter.

    Args:
        average: `logits` or `probabilities`.
        most: how many members there may be at most, each as often as it counts.

    Raises:
        InputError: for predictions or labels of numbers that are all the same, or members with
            different classes.
    """
    task, metric, members = candidates.task, candidates.metric, candidates.members
    if metric == "pearson" and not np.ptp(candidates.held_labels):
        raise InputError(f"{task}: the labels that were held out are all the same; hold out more")
    if metric == "pearson" and not np.ptp(candidates.labels):
        raise InputError(f"{task}: the dev labels are all the same; run cells on more of them")
    held = [_averaged(of, of.held_logits, metric, average) for of in members]
    dev = [_averaged(of, of.logits, metric, average) for of in members]
    if len({of.shape[1] for of in (*held, *dev)}) > 1:
        raise InputError(f"{task}: cells tell different numbers of classes; keep them apart")

    def chosen(indices: Sequence[int], at_most: int) -> Choice:
        found = choose([held[i] for i in indices], candidates.held_labels, metric, most=at_most)
        return Choice(
            tuple((indices[i], n) for i, n in found.weights),
            found.held_score,
            tuple(Addition(indices[of.index], of.held_score) for of in found.additions),
        )

    def scored(kind: str, choice: Choice, name: str = "") -> Scored:
        cells = tuple(members[index] for index, _ in choice.weights)
        try:
            return scored_on(
                candidates, kind, averaged(dev, choice), name, choice.held_score, cells
            )
        except ValueError as error:
            raise InputError(f"{task}: the {kind} can't be scored: {error}") from error

    by_id = sorted(range(len(members)), key=lambda index: str(members[index].row["cell_id"]))
    choice, alone = chosen(by_id, most), chosen(by_id, 1)
    best = members[alone.weights[0][0]]
    own = str(best.row["model_digest"])
    encoders = []
    for digest, label in _encoders(members).items():
        if digest != own:
            indices = [i for i in by_id if str(members[i].row["model_digest"]) == digest]
            first = chosen(indices, 1)
            name = members[first.weights[0][0]].name
            encoders.append(scored(f"best of {label}", first, name))
    left = candidates.left_out
    note = f"{count(left, 'cell')} of {task} left out: made on other examples than the others"
    return Outcome(
        candidates=candidates,
        average=average,
        ensemble=scored(ENSEMBLE, choice),
        best=scored(BEST, alone, candidates.name_of(best)),
        members=[(members[index], weight) for index, weight in choice.weights],
        alone=[
            scored(CELL, chosen([index], 1), candidates.name_of(member))
            for index, member in enumerate(members)
        ],
        stages=_stages(candidates, choice, dev),
        encoders=encoders,
        notes=(note,) if left else (),
    )


def all_alike(candidates: Candidates, average: str) -> Scored:
    """The average of all candidates, each once: what choosing them has to beat.

    Raises:
        InputError: for predictions that can't be averaged, or that are all the same together.
    """
    metric, members = candidates.metric, candidates.members
    every = Choice(tuple((index, 1) for index in range(len(members))), held_score=0.0)
    held = averaged([_averaged(of, of.held_logits, metric, average) for of in members], every)
    dev = averaged([_averaged(of, of.logits, metric, average) for of in members], every)
    own = score(metric, held, candidates.held_labels)
    try:
        return scored_on(candidates, ALL, dev, held=own, members=tuple(members))
    except ValueError as error:
        raise InputError(f"{candidates.task}: the {ALL} can't be scored: {error}") from error


def scored_on(
    candidates: Candidates,
    kind: str,
    predictions: Floats,
    name: str = "",
    held: float | None = None,
    members: tuple[Member, ...] = (),
) -> Scored:
    """Predictions [N, C] on the candidates' dev examples, scored.

    Raises:
        ValueError: for predictions of a number that are all the same.
    """
    values = values_for(candidates.metric, predictions, candidates.labels)
    return Scored(kind, name or kind, spread(values[None]).interval(), values, held, members)


def _stages(candidates: Candidates, choice: Choice, dev: Sequence[Floats]) -> list[Stage]:
    """The stages of a choice, scored on dev, too."""
    found, total = [], np.zeros_like(dev[0])
    for size, addition in enumerate(choice.additions, start=1):
        total = total + dev[addition.index]
        held = addition.held_score if np.isfinite(addition.held_score) else None
        reached = score(candidates.metric, total / size, candidates.labels)
        found.append(Stage(candidates.members[addition.index], held, reached))
    return found


def _averaged(member: Member, logits: Any, metric: str, average: str) -> Floats:
    try:
        return as_averaged(logits, metric, average)
    except ValueError as error:
        raise InputError(f"{member.name} can't be averaged: {error}; take its row out") from error


def _encoders(members: Sequence[Member]) -> Mapping[str, str]:
    """The members' encoders by digest, with names that differ."""
    models = {str(of.row["model_digest"]): str(of.row["model"]) for of in members}
    often = Counter(models.values())
    return {
        digest: name if often[name] == 1 else f"{name} {digest[:6]}"
        for digest, name in models.items()
    }


def parameters_of(members: Sequence[Member]) -> int:
    """Parameters of all members together: a cell that is in several times counts once, and so does
    a frozen encoder that several share."""
    own: dict[Any, int] = {}
    shared: dict[Any, int] = {}
    for member in members:
        own[member.row["cell_id"]] = member.own_parameters
        model = member.row["model_digest"]
        shared[model] = max(shared.get(model, 0), member.shared_parameters)
    return sum(own.values()) + sum(shared.values())
