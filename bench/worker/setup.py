"""Building of a job's model, parameter groups and data, ready to train.

A task without parts is one of a single part, whose name is "".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.injection import decays, hold_frozen, inject, parameter_groups
from adapters.layer import AdaptedLinear
from bench.examples import tokens
from bench.plan.cell import BALANCED, CANDIDATE, ITERATIVE, MULTITASK, Cell
from bench.plan.job import Job
from bench.plan.parts import SINGLE, from_text
from minbert.data.batches import longest_of
from minbert.data.encoded import Encoded, in_one
from minbert.data.metrics import constant
from minbert.data.tasks import Data, Task, find_task, for_search, load_data
from minbert.errors import InputError
from minbert.model.checkpoint import load_encoder
from minbert.model.classifier import BertClassifier, HeadConfig, initialise
from minbert.model.config import GEOMETRIES, BertConfig
from minbert.training.losses import BINARY, CROSS_ENTROPY, MULTI_LABEL, loss_name
from minbert.training.trainer import HALF, Group
from minbert.training.unfreezing import GradualUnfreezing

_TWO: Final = 2
"""Classes between which one logit of a part decides."""
_BELOW_HEAD: Final = re.compile(r"bert\w*\.(?:encoder\.layer\.(\d+)|embeddings)\.")
_LORA_B: Final = ".lora_B"


@dataclass(frozen=True)
class Split:
    """Tokenised examples of a part, with their labels as given and as the loss takes them.

    Attributes:
        texts: token ids of each example, a text or a pair in one sequence; of a part on pairs, two:
            token ids of the first texts, and of the second.
        targets: (`labels` − `mean`) / `std`, [N]; mean 0 and std 1 for a classification. With
            several labels for a text, those in floating point, [N, C].
        loss: name of the loss that they are learned by.
    """

    texts: tuple[Encoded, ...]
    targets: NDArray[np.generic]
    labels: NDArray[np.generic]
    loss: str
    mean: float = 0.0
    std: float = 1.0

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of the longest text of each example, [N]."""
        return longest_of(self.texts)

    def taken(self, indices: NDArray[np.int64]) -> "Split":
        """The examples at some indices, in their order."""
        return replace(
            self,
            texts=tuple(encoded.taken(indices) for encoded in self.texts),
            targets=self.targets[indices],
            labels=self.labels[indices],
        )


def without_held_out(
    train: Split, share: float, max_length: int
) -> tuple[Split, Split, NDArray[np.int64]]:
    """Split training examples by `Encoded.held_out`.

    Pairs are put into one sequence to choose, so that a part of a task and a task on the same pairs
    alone hold out the same examples.

    Args:
        max_length: tokens after which a text, or a pair, is cut.

    Returns:
        The examples to train on, the held-out examples, and the indices of the latter.
    """
    first, *second = train.texts
    kept, held = (in_one(first, second[0], max_length) if second else first).held_out(share)
    return train.taken(kept), train.taken(held), held


def parts_of(cell: Cell) -> list[str]:
    """The parts of the cell's task that are in its data, in the task's order; [""] for a task
    without parts."""
    if cell.task != MULTITASK:
        return [""]
    rates = from_text(cell.task_rates or "")
    return [part for part in find_task(MULTITASK).parts if part in rates]


def task_of(job: Job) -> Task:
    """The task of a job's cell.

    Raises:
        InputError: if there is no such task.
    """
    return find_task(job.cell.task, folder_of(job))


def folder_of(job: Job) -> Path | None:
    """The folder of the task's files; None for an embedded task."""
    return None if job.data is None else Path(job.data)


def heads_of(task: Task, parts: Sequence[str]) -> int | dict[str, HeadConfig]:
    """Outputs of a model: a logit for each class, or one for a number; in a part of a task, one for
    two classes as well."""
    if list(parts) == [""]:
        return task.num_outputs
    heads = {}
    for part in parts:
        classes = len(find_task(part).classes)
        outputs = classes if classes > _TWO else 1
        heads[part] = HeadConfig(outputs, pairs=part not in SINGLE)
    return heads


def losses_of(task: Task, parts: Sequence[str], regression_loss: str | None) -> dict[str, str]:
    """The name of each part's loss."""
    losses = {}
    for part in parts:
        part_task = find_task(part) if part else task
        binary = part != "" and len(part_task.classes) == _TWO
        losses[part] = BINARY if binary else loss_name(part_task.kind, regression_loss)
    return losses


def load_examples(job: Job) -> Data:
    """The cell's examples as texts.

    Raises:
        InputError: if they have changed since the cell was planned.
    """
    cell = job.cell
    data = load_data(
        cell.task,
        folder_of(job),
        max_train=cell.max_train,
        max_dev=cell.max_dev,
        folds=cell.folds,
        fold=cell.fold,
    )
    if cell.learning_rate_source == CANDIDATE:
        data = for_search(data)
    if not data.digest.startswith(cell.data_digest):
        raise InputError(
            f"the examples of {cell.task} have changed since the cell was planned; "
            "start the grid again"
        )
    return data


def build_model(job: Job) -> BertClassifier:
    """The model of a cell on its device, with its adapters and with weights loaded or drawn."""
    cell = job.cell
    model = new_model(job)
    new_pooler = cell.init == "random"
    if cell.init == "pretrained":
        checkpoint = Path(job.checkpoint or "")
        encoders = [encoder for encoder in (model.bert, model.bert_pairs) if encoder is not None]
        lacking = [load_encoder(encoder, checkpoint) for encoder in encoders]
        new_pooler = any(lacking)
    initialise(model, cell.seed)
    return make_ready(model, job, new_pooler)


def new_model(job: Job) -> BertClassifier:
    """The encoder with its heads, still without adapters and weights."""
    cell = job.cell
    if job.geometry is not None:
        config = GEOMETRIES[job.geometry]
    else:
        config = BertConfig.from_folder(Path(job.checkpoint or ""))
    config = replace(
        config, hidden_dropout_prob=cell.dropout, attention_probs_dropout_prob=cell.dropout
    )
    return BertClassifier(
        config,
        heads_of(task_of(job), parts_of(cell)),
        pooling=cell.pooling,
        dropout=cell.dropout,
        head=cell.head,
        encoders=cell.encoders or 1,
    )


def make_ready(model: BertClassifier, job: Job, new_pooler: bool) -> BertClassifier:
    """A model that has its weights, on its device and with the cell's adapters."""
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
            if isinstance(layer, AdaptedLinear):  # DoRA starts from the norms of the weight
                layer.reset_parameters(cell.seed)
    return model.to(torch.device(job.device))


def unfreezing(model: nn.Module, cell: Cell) -> GradualUnfreezing | None:
    """The cell's gradual unfreezing; None if everything trains from the first epoch."""
    if cell.unfreeze != ITERATIVE:
        return None
    return GradualUnfreezing(model, always=frozenset(parameter_groups(model)["head"]))


def trained_groups(model: nn.Module, cell: Cell) -> list[Group]:
    """Trained parameters by learning rate and weight decay: matrices are decayed, vectors are not.

    The decay of matrices is 1 here, and every step multiplies it by the decay of its part.

    With layer-wise decay x of the rates, layer i of an encoder of L layers has x^(L − 1 − i) times
    the rate, adapters included, and embeddings x^L times; head and pooler have the full rate (Clark
    et al. 2020, arXiv 2003.10555). With a LoRA+ ratio, matrices B have that many times the rate
    (Hayou et al. 2024, arXiv 2402.12354).
    """
    rates = {
        "adapter": cell.learning_rate,
        "base": cell.learning_rate if cell.mode == "full" else cell.learning_rate_base,
        "head": cell.learning_rate if cell.mode == "full" else cell.learning_rate_head,
    }
    layers = (_BELOW_HEAD.match(name) for name, _ in model.named_parameters())
    depth = 1 + max((int(layer[1]) for layer in layers if layer and layer[1]), default=-1)
    groups = []
    for group, parameters in parameter_groups(model).items():
        rate = rates[group]
        if rate is None:
            continue
        alike: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in parameters.items():
            factor = _rate_factor(name, depth, cell)
            alike.setdefault((float(decays(parameter)), factor), []).append(parameter)
        groups += [
            Group(alike[decay, factor], rate * factor, decay)
            for decay, factor in sorted(alike, reverse=True)
        ]
    return groups


def _rate_factor(name: str, depth: int, cell: Cell) -> float:
    """The factor on the rate of a parameter of an encoder of `depth` layers, or of a head."""
    factor = cell.lora_plus_ratio if name.endswith(_LORA_B) else 1.0
    if match := _BELOW_HEAD.match(name):
        above = depth if match[1] is None else depth - 1 - int(match[1])
        factor *= cell.layer_decay**above
    return factor


def class_weights(train: Mapping[str, Split], task: Task, cell: Cell) -> dict[str, Tensor]:
    """Weights [C] of the classes by part of the task, for parts that weigh them.

    Balanced, a class with n of N training examples weighs N / (C n), with C the number of classes
    that have examples; the others, of which no label comes, weigh 0.
    """
    weights = {}
    for part, split in train.items():
        if cell.class_weights == BALANCED and split.loss in (CROSS_ENTROPY, BINARY):
            classes = len((find_task(part) if part else task).classes)
            counts = np.bincount(split.labels.astype(np.int64), minlength=classes)
            inverse = np.divide(1.0, counts, out=np.zeros(classes), where=counts > 0)
            balanced = counts.sum() / np.count_nonzero(counts) * inverse
            weights[part] = torch.from_numpy(balanced.astype(np.float32))
    return weights


def factors_of(cell: Cell) -> dict[str, tuple[float, float]]:
    """By part, the factor on the rates of `trained_groups`, and the factor on their decays."""
    if cell.task_rates is None:
        return {"": (1.0, cell.weight_decay)}
    rates, decays = from_text(cell.task_rates), from_text(cell.task_decays or "")
    return {part: (rate, decays[part]) for part, rate in rates.items()}


def examples(job: Job) -> dict[str, tuple[Split, Split]]:
    """Train and dev of each part as token ids: mapped from the cache, or else tokenised now.

    Targets of a regression are standardised by the training set's mean and std, which changes no
    correlation and lets one learning rate serve every scale of ratings.

    Raises:
        InputError: if they have changed since the cell was planned.
    """
    cell, tokenizer, parts = job.cell, Path(job.tokenizer), parts_of(job.cell)
    folder, task = folder_of(job), task_of(job)
    sides = tokens.read(cell, tokenizer, folder)
    if sides is None or set(map(_part_of, sides)) != set(parts):
        sides = tokens.make(load_examples(job), cell, tokenizer, folder)
    losses = losses_of(task, parts, cell.regression_loss)
    return {
        part: _splits(
            [both for piece, both in sides.items() if _part_of(piece) == part],
            losses[part],
            regression=(find_task(part) if part else task).kind == "regression",
        )
        for part in parts
    }


def _part_of(piece: str) -> str:
    return piece.partition(".")[0]


def standard(labels: NDArray[np.generic]) -> tuple[float, float]:
    """The mean and the std by which a regression's targets are standardised.

    For labels that are all the same these are their value and 1, so that their targets are 0: the
    rounding error of their mean must not be divided by.
    """
    numbers = np.asarray(labels, dtype=np.float64)
    if constant(numbers):
        return float(numbers[0]), 1.0
    return float(np.mean(numbers)), float(np.std(numbers))


def _splits(pieces: Sequence[tokens.Sides], loss: str, *, regression: bool) -> tuple[Split, Split]:
    """Train and dev of a part with their targets, from the piece of its first texts and, for pairs,
    that of its second texts."""
    in_float = regression or loss == MULTI_LABEL
    mean, std = standard(pieces[0][0].labels) if regression else (0.0, 1.0)
    splits = []
    for side in (0, 1):
        labels = np.array(pieces[0][side].labels)  # a copy that torch can write to
        targets = ((labels - mean) / std).astype(np.float32) if in_float else labels
        texts = tuple(piece[side].encoded for piece in pieces)
        splits.append(Split(texts, targets, labels, loss, mean, std))
    return splits[0], splits[1]
