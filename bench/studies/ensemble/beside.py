"""What is scored beside an ensemble: baselines, best members of other encoders, and a peer."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from bench.machine.conditions import Found
from bench.plan.cell import Cell
from bench.plan.models import Model
from bench.results.origins import examples_of, model_of
from bench.studies.ensemble import baselines
from bench.studies.ensemble.averages import Floats
from bench.studies.ensemble.members import Member
from bench.studies.ensemble.outcome import Outcome, Scored, all_alike, scored_on
from minbert.data.tasks import TaskData

_WITHOUT: Final = "leave out what needs it (--baselines, --peer)"


def with_baselines(outcome: Outcome, data: Path | None) -> Outcome:
    """An outcome with the average of all cells, the best members of other encoders, and what needs
    no fine-tuning.

    A baseline that predicts one number for all examples, or has nothing to learn from, is left
    out, with a note.

    Args:
        data: the folder of the task's files; none for an embedded task.

    Raises:
        InputError: if the examples or the checkpoint are not at hand, or scikit-learn is not.
    """
    task, member = outcome.candidates.task, outcome.best_member
    examples = _examples(member, task, data)
    found: dict[str, Floats | None] = {}
    others, notes = [*outcome.others, *outcome.encoders], list(outcome.notes)
    if len(outcome.candidates.members) > 1:
        others.insert(0, all_alike(outcome.candidates, outcome.average))
    try:
        found[baselines.TFIDF] = baselines.tfidf(examples)
    except baselines.NothingToLearnError as error:
        notes.append(f"{baselines.TFIDF} left out: {error}")
    if baselines.compares(examples) and (checkpoint := _model(member).checkpoint) is not None:
        length = int(member.row["max_length"] or 128)
        found[baselines.COSINE] = baselines.cosine(examples, checkpoint, length)
    for kind, predictions in found.items():
        if predictions is None:
            continue
        try:
            others.append(scored_on(outcome.candidates, kind, predictions))
        except ValueError as error:
            notes.append(f"{kind} left out: {error}")
    return replace(outcome, others=others, notes=tuple(notes))


def with_peers(outcomes: Sequence[Outcome], data: Path | None) -> list[Outcome]:
    """Outcomes with what transformers and PEFT reach in the setting of each task's best member.

    Where only this project has that setting, they train the best one, by what was held out, that
    they can; where they can train none, there is a note instead. With a training that failed, there
    is a problem. What was trained before is not trained again. Where all members were trained on
    a CPU the peers are too.

    Args:
        data: as of `with_baselines`.

    Raises:
        InputError: as `with_baselines`, before anything is trained.
        StoppedError: if the user stopped a training.
    """
    from bench.machine.conditions import find_conditions

    members = [of.members[0] for outcome in outcomes for of in outcome.alone]
    on_cpu = all(member.row["device"] == "cpu" for member in members)
    found = find_conditions("cpu" if on_cpu else "auto")
    ready = [_peer_of(outcome, data, found) for outcome in outcomes]
    return [train() for train in ready]


def _peer_of(outcome: Outcome, data: Path | None, found: Found) -> Callable[[], Outcome]:
    """What trains the peer of an outcome, if there is something to train, and scores it.

    Raises:
        InputError: if the examples or the checkpoint are not at hand.
    """
    from bench.studies.ensemble.peer import PEER, KeptPeer, PeerError, train_peer, why_not

    def unable(member: Member) -> str | None:
        return why_not(Cell.from_columns(member.row), found.conditions.device)

    candidates, best = outcome.candidates, outcome.best_member
    able = [of for of in (outcome.best, *outcome.alone) if unable(of.members[0]) is None]
    if not able:
        note = f"{PEER} left out for {best.name}: {unable(best)}"
        note += "; nor can they train another cell's setting" if len(outcome.alone) > 1 else ""
        return partial(replace, outcome, notes=(*outcome.notes, note))
    (member,) = max(able, key=_held).members
    cell = Cell.from_columns(member.row)
    kept = KeptPeer(member.folder, cell, candidates.labels, found)
    known = kept.read()
    if known is None:
        examples, model = _examples(member, candidates.task, data), _model(member)

    def scored() -> Outcome:
        try:
            predicted = known or kept.write(train_peer(cell, examples, model, data, found))
            peer = scored_on(candidates, PEER, predicted.logits, cell.name, members=(member,))
        except (PeerError, ValueError) as error:
            problem = f"{candidates.task}: {PEER}: {error}"
            return replace(outcome, problems=(*outcome.problems, problem))
        note = f"{PEER} trained the setting of {cell.name} ({predicted.libraries})"
        if member is not best:
            note += f", the best that they can: for {candidates.name_of(best)} {unable(best)}"
        return replace(outcome, others=[*outcome.others, peer], notes=(*outcome.notes, note))

    return scored


def _held(of: Scored) -> float:
    return -math.inf if of.held is None else of.held


def _examples(member: Member, task: str, data: Path | None) -> TaskData:
    """The examples of a task that a member was trained and scored on.

    Raises:
        InputError: if they are not at hand, or others are.
    """
    return examples_of(member.row, data).parts[task]


def _model(member: Member) -> Model:
    """The checkpoint that a member was trained from.

    Raises:
        InputError: if it is gone, or another by now.
    """
    return model_of(member.row, member.folder, _WITHOUT)
