"""The entries an ensemble is compared with: baselines, and training by transformers + PEFT."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from bench.machine.conditions import Found
from bench.plan.models import Model
from bench.results.origins import examples_of, model_of
from bench.studies.ensemble import baselines
from bench.studies.ensemble.averages import Floats
from bench.studies.ensemble.members import Member
from bench.studies.ensemble.outcome import Entry, Outcome, average_of_all, entry_for
from minbert.data.tasks import TaskData

_WITHOUT: Final = "leave out what needs it (--baselines, --peer)"


def with_baselines(outcome: Outcome, data: Path | None) -> Outcome:
    """An outcome with its baselines: the average of all cells, the best members of other encoders,
    TF-IDF, and the cosine of embeddings.

    A baseline that predicts the same number for all examples, or has nothing to learn from, is left
    out, with a note.

    Args:
        data: the folder of the task's files; none for an embedded task.

    Raises:
        InputError: if the examples, the checkpoint or scikit-learn are missing.
    """
    task, member = outcome.candidates.task, outcome.best_member
    examples = _examples(member, task, data)
    predictions: dict[str, Floats] = {}
    others, notes = [*outcome.others, *outcome.encoders], list(outcome.notes)
    if len(outcome.candidates.members) > 1:
        others.insert(0, average_of_all(outcome.candidates, outcome.average))
    try:
        predictions[baselines.TFIDF] = baselines.tfidf(examples)
    except baselines.NothingToLearnError as error:
        notes.append(f"{baselines.TFIDF} left out: {error}")
    if baselines.is_comparison(examples) and (checkpoint := _model(member).checkpoint) is not None:
        length = int(member.row.max_length or 128)
        predictions[baselines.COSINE] = baselines.cosine(examples, checkpoint, length)
    for kind, values in predictions.items():
        try:
            others.append(entry_for(outcome.candidates, kind, values))
        except ValueError as error:
            notes.append(f"{kind} left out: {error}")
    return replace(outcome, others=others, notes=tuple(notes))


def with_peers(outcomes: Sequence[Outcome], data: Path | None) -> list[Outcome]:
    """Outcomes with the score that transformers + PEFT reach with the best member's setting.

    If they can't train that setting, they train the best they can, by score on held-out examples;
    if they can train none, a note says so. A failed training adds a problem. Results of earlier
    calls are reused. Where all members were trained on a CPU, so are these.

    Args:
        data: as of `with_baselines`.

    Raises:
        InputError: as `with_baselines`, before anything is trained.
        StoppedError: if the user stopped a training.
    """
    from bench.machine.conditions import find_conditions

    members = [entry.members[0] for outcome in outcomes for entry in outcome.alone]
    on_cpu = all(member.row.device == "cpu" for member in members)
    found = find_conditions("cpu" if on_cpu else "auto")
    trainings = [_training(outcome, data, found) for outcome in outcomes]
    return [train() for train in trainings]


def _training(outcome: Outcome, data: Path | None, found: Found) -> Callable[[], Outcome]:
    """A function that trains an outcome's setting by transformers + PEFT, if it has to be trained,
    and returns the outcome with its score.

    Raises:
        InputError: if the examples or the checkpoint are missing.
    """
    from bench.studies.ensemble.peer import PEER, KeptPeer, PeerError, train_peer, why_not

    def obstacle(member: Member) -> str | None:
        return why_not(member.row.cell, found.conditions.device)

    candidates, best = outcome.candidates, outcome.best_member
    trainable = [
        entry for entry in (outcome.best, *outcome.alone) if obstacle(entry.members[0]) is None
    ]
    if not trainable:
        note = f"{PEER} left out for {best.name}: {obstacle(best)}"
        note += "; nor can they train another cell's setting" if len(outcome.alone) > 1 else ""
        return partial(replace, outcome, notes=(*outcome.notes, note))
    (member,) = max(trainable, key=_held_score).members
    cell = member.row.cell
    kept = KeptPeer(member.folder, cell, candidates.labels, found)
    earlier = kept.read()
    if earlier is None:
        examples, model = _examples(member, candidates.task, data), _model(member)

    def train() -> Outcome:
        try:
            peer = earlier or kept.write(train_peer(cell, examples, model, data, found))
            entry = entry_for(candidates, PEER, peer.logits, cell.name, members=(member,))
        except (PeerError, ValueError) as error:
            problem = f"{candidates.task}: {PEER}: {error}"
            return replace(outcome, problems=(*outcome.problems, problem))
        note = f"{PEER} trained the setting of {cell.name} ({peer.libraries})"
        if member is not best:
            note += f", the best that they can: for {candidates.name_of(best)} {obstacle(best)}"
        return replace(outcome, others=[*outcome.others, entry], notes=(*outcome.notes, note))

    return train


def _held_score(entry: Entry) -> float:
    return -math.inf if entry.held_score is None else entry.held_score


def _examples(member: Member, task: str, data: Path | None) -> TaskData:
    """The examples of a task that a member was trained and scored on.

    Raises:
        InputError: if they are missing or have changed.
    """
    return examples_of(member.row, data).parts[task]


def _model(member: Member) -> Model:
    """The checkpoint that a member was trained from.

    Raises:
        InputError: if it is missing or has changed.
    """
    return model_of(member.row, member.folder, _WITHOUT)
