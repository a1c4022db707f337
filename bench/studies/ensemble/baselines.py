"""Baselines of an ensemble: the average of all cells, the best members of other encoders, TF-IDF
with a linear model, the cosine of sentence embeddings, and the best member's setting trained by
transformers + PEFT. Loads scikit-learn and torch on first use.

That training is a cell of engine transformers on shuffled batches, as its Trainer makes them, on
the member's examples for as many steps. Its folder, next to those of the cells, is kept, since a
training takes minutes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from bench.common.errors import InputError
from bench.forecast.client import lock_on
from bench.launch.again import train_again
from bench.launch.signals import Signals
from bench.machine.conditions import Target, find_conditions
from bench.plan.architectures import attention_of
from bench.plan.cell import FP32, MULTITASK, OFF, TRANSFORMERS, Cell
from bench.plan.job import Job
from bench.plan.models import engine_version
from bench.references.linear import embedder, tfidf
from bench.results.origins import data_folder, examples_of, model_of
from bench.results.protocol import PREDICTIONS
from bench.stats.intervals import Floats
from bench.studies.ensemble.members import Member
from bench.studies.ensemble.result import TaskResult, average_of_all, entry_for, published
from minbert.data.tasks import Examples, TaskData

BASELINE: Final = "transformers + PEFT"
TFIDF, COSINE = "tf-idf and a linear model", "cosine of sentence embeddings"
WITHOUT: Final = "leave out what needs it (--baselines, --peer)"
"""What the user can do if a checkpoint is gone."""


def with_baselines(result: TaskResult, data: Path | None) -> TaskResult:
    """A result with its baselines and published scores; a baseline that predicts the same number
    for all examples, or has nothing to learn from, is left out with a note. InputError if the
    examples, of a folder of data unless they are embedded, or the checkpoint are missing."""
    pool, member = result.pool, result.best_member
    folder = data_folder(member.row, member.folder, data)
    examples = examples_of(member.row, folder).parts[result.task]
    others, notes = [*result.others, *result.encoders], []
    if len(pool.members) > 1:
        others.insert(0, average_of_all(pool, result.average))

    def add(kind: str, predict: Callable[..., Floats], *arguments: Any) -> None:
        try:
            others.append(entry_for(pool, kind, predict(*arguments)))
        except ValueError as error:
            notes.append(f"{kind} left out: {error}")

    add(TFIDF, lambda data: tfidf(data.task, data.train, data.dev)[0], examples)
    if examples.train.text_b is not None and len(examples.task.classes) <= 2:
        checkpoint = model_of(member.row, member.folder, WITHOUT).checkpoint
        if checkpoint is not None:
            add(COSINE, cosine, examples, checkpoint, int(member.row.max_length or 128))
    return replace(result, others=others, published=published(result.task)).with_notes(*notes)


def cosine(data: TaskData, checkpoint: Path, max_length: int) -> Floats:
    """Predictions [N, C] on dev by the cosine of both texts' embeddings, for pairs of texts with a
    number or two classes. An embedding is the mean of a text's hidden states in the encoder of a
    checkpoint, as it was before training. The cosine is the predicted number; for two classes it is
    compared with the threshold that is most accurate on train."""
    from minbert.data.tokenizer import Tokenizer

    encode, embed = Tokenizer.from_folder(checkpoint).encode, embedder(checkpoint, "mean", "cpu")

    def cosines(examples: Examples) -> Floats:
        texts = examples.text_a, examples.text_b or ()
        a, b = (embed(encode(each, None, max_length)) for each in texts)
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return np.asarray((a * b).sum(axis=1) / np.maximum(lengths, 1e-12))

    dev = cosines(data.dev)
    if not data.task.classes:
        return dev[:, None]
    edge = threshold(cosines(data.train), data.train.labels)
    return np.stack([edge - dev, dev - edge], axis=1)


def threshold(values: Floats, labels: NDArray[np.generic]) -> float:
    """The lowest threshold, halfway between two of the values [N], that separates the classes 0
    (below) and 1 (above) most accurately."""
    distinct, places = np.unique(values, return_inverse=True)
    # the right answers below each threshold, less the wrong ones
    right = np.cumsum(np.bincount(places, np.where(labels == 1, -1, 1)))
    ends = np.concatenate([[distinct[0] - 1], distinct, [distinct[-1] + 1]])
    return float(((ends[:-1] + ends[1:]) / 2)[np.concatenate([[0], right]).argmax()])


def why_not(cell: Cell, device: str) -> str | None:
    """The reason why they can't train a cell's setting on a device; None if they can."""
    if cell.task == MULTITASK:
        return "they learn only one task"
    if cell.pooling == "pooler" and cell.head == "nonlinear":
        return "with pooling pooler they have only their own head"
    if cell.amp == "fp16" and device == "cpu":
        return "amp fp16 needs a GPU"
    return None


def with_transformers(
    results: Sequence[TaskResult], runs: Path, data: Path | None
) -> list[TaskResult]:
    """Results with the score that transformers + PEFT reach with the best member's setting.

    If they can't train that setting, they train the best they can, by score on held-out examples;
    if they can train none, a note says so. A failed training adds a problem. Results of earlier
    calls are reused: trainings are kept in the folder of cells of the CSV. Where all members were
    trained on a CPU, so are these. InputError if examples, of a folder of data unless they are
    embedded, or a checkpoint are missing, before anything is trained; StoppedError if the user
    stopped a training.
    """
    members = [member for result in results for member in result.pool.members]
    on_cpu = all(member.row.device == "cpu" for member in members)
    machine = find_conditions("cpu" if on_cpu else "auto")
    # all are made before the first one runs
    return [train() for train in [_training(result, runs, data, machine) for result in results]]


def _training(
    result: TaskResult, runs: Path, data: Path | None, machine: Target
) -> Callable[[], TaskResult]:
    """A function that trains a result's setting and returns the result with its score."""

    def obstacle(member: Member) -> str | None:
        return why_not(member.row.cell, machine.conditions.device)

    pool, best = result.pool, result.best_member
    trainable = [each for each in (result.best, *result.alone) if not obstacle(each.members[0])]
    if not trainable:
        note = f"{BASELINE} left out for {best.row.name}: {obstacle(best)}"
        note += "; nor can they train another cell's setting" if len(result.alone) > 1 else ""
        return partial(result.with_notes, note)
    (member,) = max(trainable, key=lambda entry: entry.held_score or 0.0).members
    job = job_of(member, data, machine)

    def train() -> TaskResult:
        try:
            logits = train_baseline(runs, job, machine)
            entry = entry_for(pool, BASELINE, logits, job.cell.name, members=(member,))
        except (InputError, OSError, SafetensorError, KeyError, ValueError) as error:
            problem = f"{result.task}: {BASELINE}: {error}"
            return replace(result, problems=(*result.problems, problem))
        note = f"{BASELINE} trained the setting of {member.row.name} ({job.cell.engine_version})"
        if member is not best:
            note += f", the best that they can: for {pool.label_of(best)} {obstacle(best)}"
        return replace(result, others=[*result.others, entry]).with_notes(note)

    return train


def job_of(member: Member, data: Path | None, machine: Target) -> Job:
    """The job of a member's setting for engine transformers; InputError if the member's examples,
    checkpoint or job are gone."""
    row, here = member.row, machine.conditions
    folder = data_folder(row, member.folder, data)
    examples_of(row, folder)
    model = model_of(row, member.folder, WITHOUT)
    cell = replace(
        row.cell,
        engine=TRANSFORMERS,
        engine_version=engine_version(),
        attn_implementation=attention_of(model.config),
        kernels=None,
        own_kernels=OFF,
        batching="shuffled",
        compile=OFF,
        compile_why=None,
        frozen_dtype=None if row.frozen_dtype is None else FP32,  # as transformers keeps them
    )
    return replace(
        Job.read(member.folder),
        cell=cell,
        **here.job_fields(),
        checkpoint=None if model.checkpoint is None else str(model.checkpoint.resolve()),
        data=None if folder is None else str(folder.resolve()),
        keep=True,
    )


def train_baseline(runs: Path, job: Job, machine: Target) -> Floats:
    """Train a job's cell, unless it has been trained, and return the logits [N, C] on dev;
    InputError if it failed, StoppedError if the user stopped it."""
    name = f"ensemble-{job.cell.cell_id}"
    purpose = f"by {BASELINE}"
    with Signals() as signals, lock_on(machine.device_name, signals)():
        folder = train_again(runs, job, name, target=machine, signals=signals, purpose=purpose)
    return np.asarray(load_file(folder / PREDICTIONS)["logits"], dtype=np.float64)
