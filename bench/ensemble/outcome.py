"""What an ensemble gives on dev, beside its best member. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.ensemble.members import Candidates, Member
from bench.errors import InputError
from bench.predictions import values_for
from bench.stats import Interval, spread
from minbert.ensemble import Choice, Floats, as_averaged, averaged, choose


@dataclass(frozen=True)
class Scored:
    """Who is scored, its dev score with its interval, and that on what was held out.

    What is no member has neither that nor parameters that are told.
    """

    name: str
    dev: Interval
    held: float | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class Outcome:
    """An ensemble, its best member, and how much better it is, example by example."""

    ensemble: Scored
    best: Scored
    gain: Interval
    baselines: Sequence[Scored]
    members: Sequence[tuple[Member, int]]
    average: str


def ensemble_of(
    candidates: Candidates,
    average: str,
    most: int,
    baselines: Mapping[str, Floats] | None = None,
) -> Outcome:
    """Choose an ensemble on what was held out, and score it on dev.

    The best member is that of the highest score on what was held out: dev chooses nothing.

    Args:
        average: `logits` or `probabilities`.
        most: how many members there may be at most, each as often as it counts.
        baselines: what others predict on dev, [N, C], by their names.

    Raises:
        InputError: for predictions or labels of numbers that are all the same.
    """
    metric, members = candidates.metric, candidates.members
    if metric == "pearson" and not np.ptp(candidates.held_labels):
        raise InputError("the labels that were held out are all the same; hold out more")
    try:
        held = [as_averaged(member.held_logits, metric, average) for member in members]
        dev = [as_averaged(member.logits, metric, average) for member in members]
    except ValueError as error:
        raise InputError(f"a cell can't be averaged: {error}") from error
    choice = choose(held, candidates.held_labels, metric, most=most)
    alone = choose(held, candidates.held_labels, metric, most=1)
    values = [values_for(metric, averaged(dev, of), candidates.labels) for of in (choice, alone)]
    best = members[alone.weights[0][0]]
    return Outcome(
        ensemble=_scored("ensemble", values[0], choice, [members[i] for i, _ in choice.weights]),
        best=_scored(best.name, values[1], alone, [best]),
        gain=spread((values[0] - values[1])[None]).interval(),
        baselines=[
            Scored(name, spread(values_for(metric, logits, candidates.labels)[None]).interval())
            for name, logits in (baselines or {}).items()
        ],
        members=[(members[index], weight) for index, weight in choice.weights],
        average=average,
    )


def _scored(name: str, values: Floats, choice: Choice, members: Sequence[Member]) -> Scored:
    return Scored(name, spread(values[None]).interval(), choice.held_score, parameters_of(members))


def parameters_of(members: Sequence[Member]) -> int:
    """Parameters of all members together; a frozen encoder that several share counts once."""
    shared: dict[Any, int] = {}
    for member in members:
        model = member.row["model_digest"]
        shared[model] = max(shared.get(model, 0), member.shared_parameters)
    return sum(member.own_parameters for member in members) + sum(shared.values())
