"""From a job to a model, its parameter groups and its data, ready to train."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from adapters.injection import decays, hold_frozen, inject, parameter_groups
from adapters.layer import AdaptedLinear
from bench.data import tokens
from bench.plan.cell import CANDIDATE, Cell
from bench.plan.job import Job
from minbert.data.encoded import Encoded
from minbert.data.metrics import constant
from minbert.data.tasks import Data, TaskData, find_task, for_search, load_task
from minbert.errors import InputError
from minbert.model.checkpoint import load_encoder
from minbert.model.classifier import BertClassifier, initialise
from minbert.model.config import GEOMETRIES, BertConfig
from minbert.training.trainer import HALF, Group
from minbert.training.unfreezing import ITERATIVE, GradualUnfreezing

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Split:
    """Tokenised examples with their targets as the loss takes them, and as they were given.

    `targets` are (`labels` − `mean`) / `deviation`; 0 and 1 for a classification.
    """

    encoded: Encoded
    targets: NDArray[np.generic]
    labels: NDArray[np.generic]
    mean: float = 0.0
    deviation: float = 1.0

    def __len__(self) -> int:
        return len(self.labels)

    def taken(self, indices: NDArray[np.int64]) -> "Split":
        """The examples at some indices, in their order."""
        return replace(
            self,
            encoded=self.encoded.taken(indices),
            targets=self.targets[indices],
            labels=self.labels[indices],
        )


def without_held_out(train: Split, share: float) -> tuple[Split, Split, NDArray[np.int64]]:
    """Examples to train on, a share of them that is held out, as `Encoded.held_out` has it, and
    the indices of that."""
    kept, held = train.encoded.held_out(share)
    return train.taken(kept), train.taken(held), held


def load_data(job: Job) -> TaskData:
    """The examples of the cell, whose task has no parts.

    Raises:
        InputError: if they are no longer those that were planned.
    """
    cell = job.cell
    folder = Path(job.data) if job.data is not None else None
    data = load_task(cell.task, folder, max_train=cell.max_train, max_dev=cell.max_dev)
    if cell.learning_rate_source == CANDIDATE:
        data = for_search(data)
    check_planned(data, cell)
    return data


def check_planned(data: Data, cell: Cell) -> None:
    """Refuse examples that are no longer those that were planned.

    Raises:
        InputError: naming the task.
    """
    if not data.digest.startswith(cell.data_digest):
        raise InputError(
            f"the examples of {cell.task} have changed since the cell was planned; "
            "start the grid again"
        )


def config_of(job: Job) -> BertConfig:
    """The encoder's configuration, with the cell's dropout."""
    config = (
        GEOMETRIES[job.geometry]
        if job.geometry is not None
        else BertConfig.from_folder(Path(job.checkpoint or ""))
    )
    return replace(
        config,
        hidden_dropout_prob=job.cell.dropout,
        attention_probs_dropout_prob=job.cell.dropout,
    )


def build_model(job: Job, num_outputs: int) -> BertClassifier:
    """The encoder with its head, weights loaded or drawn, and the adapters of the cell in it."""
    cell = job.cell
    model = BertClassifier(
        config_of(job), num_outputs, pooling=cell.pooling, dropout=cell.dropout, head=cell.head
    )
    new_pooler = cell.init == "random"
    if cell.init == "pretrained":
        new_pooler = load_encoder(model.bert, Path(job.checkpoint or ""))
    initialise(model, cell.seed)
    return make_ready(model, job, new_pooler)


def make_ready(model: M, job: Job, new_pooler: bool) -> M:
    """A model that has its weights, with the adapters of the cell in it, on its device."""
    cell = job.cell
    inject(
        model,
        mode=cell.mode,
        layers=cell.layers,
        rank=cell.rank,
        alpha=cell.alpha if cell.alpha is not None else 1.0,
        new_pooler=new_pooler,
        seed=cell.seed,
    )
    if cell.frozen_dtype in HALF:
        hold_frozen(model, HALF[cell.frozen_dtype])
        for layer in model.modules():
            if isinstance(layer, AdaptedLinear):  # what starts from the weight as it was
                layer.reset_parameters(cell.seed)
    return model.to(torch.device(job.device))


def unfreezing(model: nn.Module, cell: Cell) -> GradualUnfreezing | None:
    """What unfreezes the model epoch by epoch; None where all trains from the first."""
    if cell.unfreeze != ITERATIVE:
        return None
    return GradualUnfreezing(model, always=frozenset(parameter_groups(model)["head"]))


def trained_groups(model: nn.Module, cell: Cell, weight_decay: float | None = None) -> list[Group]:
    """What trains, by rate and decay: matrices are decayed, vectors are not.

    Args:
        weight_decay: in place of the cell's.
    """
    decay = cell.weight_decay if weight_decay is None else weight_decay
    rates = {
        "adapter": cell.learning_rate,
        "base": cell.learning_rate if cell.mode == "full" else cell.learning_rate_base,
        "head": cell.learning_rate if cell.mode == "full" else cell.learning_rate_head,
    }
    found = []
    for name, parameters in parameter_groups(model).items():
        rate = rates[name]
        if not parameters or rate is None:
            continue
        decayed = [p for p in parameters.values() if decays(p)]
        plain = [p for p in parameters.values() if not decays(p)]
        found += [Group(decayed, rate, decay), Group(plain, rate, 0.0)]
    return found


def examples(job: Job) -> tuple[Split, Split]:
    """Train and dev as token ids: mapped from where they are kept, or else made now.

    Targets of a regression are standardised by the training set's mean and deviation, which
    changes no correlation and lets one learning rate serve every scale of ratings.

    Raises:
        InputError: if they are no longer those that were planned.
    """
    cell, tokenizer = job.cell, Path(job.tokenizer)
    folder = Path(job.data) if job.data is not None else None
    sides = tokens.read(cell, tokenizer, folder)
    if sides is None:
        sides = tokens.make(load_data(job), cell, tokenizer, folder)
    return splits(sides, regression=find_task(cell.task).kind == "regression")


def standard(labels: NDArray[np.generic]) -> tuple[float, float]:
    """The mean and the deviation by which a regression's targets are standardised.

    Of labels that are all the same it is their value and 1, so that their targets are 0: what
    their mean is rounded by is no deviation to divide by.
    """
    numbers = np.asarray(labels, dtype=np.float64)
    if constant(numbers):
        return float(numbers[0]), 1.0
    return float(np.mean(numbers)), float(np.std(numbers))


def splits(sides: tokens.Sides, *, regression: bool) -> tuple[Split, Split]:
    """Train and dev with their targets."""
    mean, deviation = 0.0, 1.0
    if regression:
        mean, deviation = standard(sides[0].labels)
    found = []
    for side in sides:
        labels = np.array(side.labels)  # a copy: torch takes no array that can't be written to
        targets = ((labels - mean) / deviation).astype(np.float32) if regression else labels
        found.append(Split(side.encoded, targets, labels, mean, deviation))
    return found[0], found[1]
