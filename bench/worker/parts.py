"""From a job whose task has parts to a model and its data, ready to train."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.data import tokens
from bench.plan.job import Job
from bench.plan.parts import SINGLE
from bench.worker.setup import Split, check_planned, config_of, make_ready, splits
from minbert.data.encoded import Encoded, in_one
from minbert.data.tasks import Task, find_task, load_data, pieces_of
from minbert.model.checkpoint import load_encoder
from minbert.model.classifier import draw
from minbert.training.losses import BINARY, loss_name
from minbert.training.multitask import Aim, MultitaskModel, lengths_of

_TWO: Final = 2
"""Classes of which one logit tells."""


@dataclass(frozen=True)
class Texts:
    """Examples of a part: token ids of their one text, or of their first and their second.

    `loss` is what they are learned by; the others as of `bench.worker.setup.Split`.
    """

    texts: tuple[Encoded, ...]
    targets: NDArray[np.generic]
    labels: NDArray[np.generic]
    loss: str
    mean: float
    deviation: float

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of the longer text of each example, [N]."""
        return lengths_of(self.texts)

    def taken(self, indices: NDArray[np.int64]) -> "Texts":
        """The examples at some indices, in their order."""
        return replace(
            self,
            texts=tuple(encoded.taken(indices) for encoded in self.texts),
            targets=self.targets[indices],
            labels=self.labels[indices],
        )


def part_without_held_out(
    train: Texts, share: float, max_length: int
) -> tuple[Texts, Texts, NDArray[np.int64]]:
    """Examples of a part to train on, a share of them that is held out, and the indices of that.

    Held out are those that a cell of the part alone holds out, which sees both texts of a pair in
    one sequence.

    Args:
        max_length: tokens after which a text, or a pair, is cut.
    """
    first, *second = train.texts
    kept, held = (in_one(first, second[0], max_length) if second else first).held_out(share)
    return train.taken(kept), train.taken(held), held


def aim_of(task: Task, *, pairs: bool) -> Aim:
    """What a model gives for a part: a logit for each class, or one for two classes or a number."""
    classes = len(task.classes)
    return Aim(outputs=classes if classes > _TWO else 1, pairs=pairs)


def aims_of(parts: Sequence[str]) -> dict[str, Aim]:
    """What a model gives for each of some parts."""
    return {part: aim_of(find_task(part), pairs=part not in SINGLE) for part in parts}


def loss_of(task: Task, regression_loss: str | None) -> str:
    """What a part is learned by."""
    return BINARY if len(task.classes) == _TWO else loss_name(task.kind, regression_loss)


def metric_of(part: str) -> str:
    """What a part's dev score is."""
    return find_task(part).metric


def build_multitask(job: Job, parts: Sequence[str]) -> MultitaskModel:
    """The encoders with the heads of these parts, as `build_model` makes one with one head."""
    cell = job.cell
    model = MultitaskModel(
        config_of(job),
        aims_of(parts),
        encoders=cell.encoders or 1,
        head=cell.head,
        pooling=cell.pooling,
        dropout=cell.dropout,
    )
    new_pooler = cell.init == "random"
    if cell.init == "pretrained":
        towers = [of for of in (model.bert, model.bert_pairs) if of is not None]
        lacked = [load_encoder(of, Path(job.checkpoint or "")) for of in towers]
        new_pooler = any(lacked)
    draw(model, model.bert.config.initializer_range, cell.seed)
    return make_ready(model, job, new_pooler)


def examples_of_parts(job: Job, parts: Sequence[str]) -> dict[str, tuple[Texts, Texts]]:
    """Train and dev of these parts as token ids, as `bench.worker.setup.examples` has those of a
    task without parts.

    Raises:
        InputError: if they are no longer those that were planned.
    """
    cell, tokenizer = job.cell, Path(job.tokenizer)
    folder = Path(job.data) if job.data is not None else None
    names = pieces_of(cell.task, folder)
    found = {piece: tokens.read(cell, tokenizer, folder, piece) for piece in names}
    sides = {piece: of for piece, of in found.items() if of is not None}
    if len(sides) < len(names) or {name.partition(".")[0] for name in names} != set(parts):
        data = load_data(cell.task, folder, max_train=cell.max_train, max_dev=cell.max_dev)
        check_planned(data, cell)
        sides = {piece: tokens.make(data, cell, tokenizer, folder, piece) for piece in names}
    return {
        part: _texts(
            find_task(part),
            [of for piece, of in sides.items() if piece.partition(".")[0] == part],
            cell.regression_loss,
        )
        for part in parts
    }


def _texts(
    task: Task, pieces: Sequence[tokens.Sides], regression_loss: str | None
) -> tuple[Texts, Texts]:
    """A part's examples, train and dev, from its first texts and its second, if it has any."""
    columns = [splits(sides, regression=task.kind == "regression") for sides in pieces]

    def together(columns: Sequence[Split]) -> Texts:
        first = columns[0]
        return Texts(
            texts=tuple(column.encoded for column in columns),
            targets=first.targets,
            labels=first.labels,
            loss=loss_of(task, regression_loss),
            mean=first.mean,
            deviation=first.deviation,
        )

    return together([train for train, _ in columns]), together([dev for _, dev in columns])
