"""What is scored beside an ensemble: baselines, best members of other encoders, and a peer."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.cell import Cell
from bench.ensemble import baselines
from bench.ensemble.members import Member
from bench.ensemble.outcome import Outcome, scored_on
from bench.errors import InputError
from bench.job import Job
from bench.models import Model, find_model
from minbert.ensemble import Floats
from minbert.files import is_folder
from minbert.tasks import TaskData, load_data
from minbert.tasks.multitask import MultitaskData

_CAPS: Final = ("max_train", "max_dev")
_WITHOUT: Final = "leave out what needs it (--baselines, --peer)"


def with_baselines(outcome: Outcome, data: Path | None) -> Outcome:
    """An outcome with the best members of other encoders, and what needs no fine-tuning.

    A baseline that predicts one number for all examples, or has nothing to learn from, is left
    out, with a note.

    Args:
        data: the folder of the task's files; none for an embedded task.

    Raises:
        InputError: if the examples or the checkpoint are not at hand, or scikit-learn is not.
    """
    task, member = outcome.candidates.task, outcome.best_member
    examples = examples_of(member, task, data)
    found: dict[str, Floats | None] = {}
    others, notes = [*outcome.others, *outcome.encoders], list(outcome.notes)
    try:
        found[baselines.TFIDF] = baselines.tfidf(examples)
    except baselines.NothingToLearnError as error:
        notes.append(f"{baselines.TFIDF} left out: {error}")
    if baselines.compares(examples) and (checkpoint := model_of(member).checkpoint) is not None:
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
    examples, model = examples_of(member, task, data), model_of(member)
    try:
        logits = train_peer(cell, examples, model, data, found)
        scored = scored_on(outcome.candidates, PEER, logits, members=(member,))
    except (PeerError, ValueError) as error:
        return replace(outcome, problems=(*outcome.problems, f"{task}: {PEER}: {error}"))
    return replace(outcome, others=[*outcome.others, scored])


def examples_of(member: Member, task: str, data: Path | None) -> TaskData:
    """The examples of a task that a member was trained and scored on.

    Raises:
        InputError: if they are not at hand, or others are.
    """
    row = member.row
    caps = {name: None if row[name] is None else int(row[name] or 0) for name in _CAPS}
    found = load_data(str(row["task"]), data, **caps)
    if not found.digest.startswith(str(row["data_digest"])):
        raise InputError(
            f"the examples of {row['task']} are not those that {member.name} was trained on; name "
            "the folder that the grid had with --data"
        )
    return found.parts[task] if isinstance(found, MultitaskData) else found.pieces()[""]


def model_of(member: Member) -> Model:
    """The checkpoint that a member was trained from: where its job found it, or by its name.

    Raises:
        InputError: if it is gone, or another by now.
    """
    name = str(member.row["model"])
    try:
        place = Job.read(member.folder).checkpoint
    except InputError:
        place = None
    there = place is not None and is_folder(place)
    if place is not None and not there and Path(place).name == name:
        raise InputError(
            f"{place}: the checkpoint of {member.name} is gone; put it back, or {_WITHOUT}"
        )
    found = find_model(place if place is not None and there else name, "pretrained", "auto")
    if found.digest != member.row["model_digest"]:
        raise InputError(
            f"{found.checkpoint}: is another checkpoint than the one that {member.name} was "
            f"trained from; put that back, or {_WITHOUT}"
        )
    return found
