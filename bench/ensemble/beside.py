"""What is scored beside an ensemble: baselines, best members of other encoders, and a peer."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.cell import Cell
from bench.ensemble import baselines
from bench.ensemble.members import Member
from bench.ensemble.outcome import Outcome, all_alike, scored_on
from bench.models import Model
from bench.origins import examples_of, model_of
from minbert.ensemble import Floats
from minbert.tasks import TaskData
from minbert.tasks.multitask import MultitaskData

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


def with_peer(outcome: Outcome, data: Path | None) -> Outcome:
    """An outcome with what transformers and PEFT reach in the best member's setting.

    With a setting that only this project has, it has a note instead; with a training that failed, a
    problem.

    Args:
        data: as of `with_baselines`.

    Raises:
        InputError: as `with_baselines`.
        StoppedError: if the user stopped the training.
    """
    from bench.conditions import find_conditions
    from bench.ensemble.peer import PEER, PeerError, train_peer, why_not

    task, member = outcome.candidates.task, outcome.best_member
    cell, found = Cell.from_columns(member.row), find_conditions("auto")
    if reason := why_not(cell, found.conditions.device):
        note = f"{PEER} left out for {cell.name}: {reason}"
        return replace(outcome, notes=(*outcome.notes, note))
    examples, model = _examples(member, task, data), _model(member)
    try:
        logits = train_peer(cell, examples, model, data, found)
        scored = scored_on(outcome.candidates, PEER, logits, members=(member,))
    except (PeerError, ValueError) as error:
        return replace(outcome, problems=(*outcome.problems, f"{task}: {PEER}: {error}"))
    return replace(outcome, others=[*outcome.others, scored])


def _examples(member: Member, task: str, data: Path | None) -> TaskData:
    """The examples of a task that a member was trained and scored on.

    Raises:
        InputError: if they are not at hand, or others are.
    """
    found = examples_of(member.row, data)
    return found.parts[task] if isinstance(found, MultitaskData) else found.pieces()[""]


def _model(member: Member) -> Model:
    """The checkpoint that a member was trained from.

    Raises:
        InputError: if it is gone, or another by now.
    """
    return model_of(member.row, member.folder, _WITHOUT)
