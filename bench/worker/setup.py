"""Building of a job's model, parameter groups and data, ready to train.

A task without parts is one of a single part, whose name is "".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.injection import decays
from bench.common.grouping import grouped
from bench.engines.engine import engine_of, folder_of, parts_of, task_of
from bench.examples import tokens
from bench.plan.cell import BALANCED, ITERATIVE, Cell
from bench.plan.columns import parse_parts
from bench.plan.examples import examples_of, unchanged
from bench.plan.job import Job
from minbert.data.batches import longest_of
from minbert.data.encoded import Encoded, in_one
from minbert.data.metrics import constant
from minbert.data.problems import problem_of
from minbert.data.tasks import Data, Task, find_task
from minbert.training.losses import BINARY, CROSS_ENTROPY, MSE, MULTI_LABEL, WORDS, kind_of
from minbert.training.optimizer import ParameterGroup
from minbert.training.trainer import GradualUnfreezing


@dataclass(frozen=True)
class Split:
    """Tokenised examples of a part, with their labels as given and as the loss takes them.

    Attributes:
        texts: token ids of each example, a text or a pair in one sequence; of a part on pairs, of
            the first texts, and of the second.
        targets: (`labels` − `mean`) / `std`, [N]; mean 0 and std 1 for a classification. With
            several labels for a text, those in floating point, [N, C]; of words their tags [N, W].
        documents: as of `Examples`.
    """

    texts: tuple[Encoded, ...]
    targets: NDArray[np.generic]
    labels: NDArray[np.generic]
    loss: str
    mean: float = 0.0
    std: float = 1.0
    documents: NDArray[Any] | None = None

    def __len__(self) -> int:
        """The number of examples, or of windows over them."""
        return len(self.lengths)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        return longest_of(self.texts)

    @property
    def tags(self) -> NDArray[Any] | None:
        """The labels, if they are those of words."""
        return self.labels if kind_of(self.loss) == WORDS else None

    def taken(self, indices: NDArray[np.int64]) -> "Split":
        return replace(
            self,
            texts=tuple(encoded.taken(indices) for encoded in self.texts),
            targets=self.targets[indices],
            labels=self.labels[indices],
            documents=None,  # as only those of dev are used
        )


def without_held_out(
    train: Split, share: float, max_length: int
) -> tuple[Split, Split, NDArray[np.int64]]:
    """Split training examples by `Encoded.held_out` into those to train on and the held-out ones,
    and return the indices of the latter. Pairs are put into one sequence to choose, so that a part
    of a task and a task on the same pairs alone hold out the same examples."""
    first, *second = train.texts
    rest, chosen = (in_one(first, second[0], max_length) if second else first).held_out(share)
    return train.taken(rest), train.taken(chosen), chosen


def losses_of(task: Task, parts: Sequence[str], regression_loss: str | None) -> dict[str, str]:
    tasks = {part: find_task(part) if part else task for part in parts}
    losses = {  # between two classes one logit of a part decides
        part: BINARY if part and len(task.classes) == 2 else task.problem.whole_loss
        for part, task in tasks.items()
    }
    return {part: regression_loss or MSE if loss == MSE else loss for part, loss in losses.items()}


def load_examples(job: Job) -> Data:
    """The cell's examples as texts. InputError if they have changed since the cell was planned."""
    return unchanged(job.cell, examples_of(job.cell, folder_of(job)))


def unfreezing(model: nn.Module, cell: Cell) -> GradualUnfreezing | None:
    """The cell's gradual unfreezing; None if everything trains from the first epoch."""
    if cell.unfreeze != ITERATIVE:
        return None
    engine = engine_of(cell)
    head = engine.parameter_groups(model)["head"]
    names = [name for name, _ in model.named_parameters() if name not in head]
    return GradualUnfreezing(model, {name: engine.place_of(model, name) for name in names})


def trained_groups(model: nn.Module, cell: Cell) -> list[ParameterGroup]:
    """Trained parameters by learning rate and weight decay: matrices are decayed, vectors are not.

    The decay of matrices is 1 here, and every step multiplies it by the decay of its part.

    With layer-wise decay x of the rates, layer i of an encoder of L layers has x^(L − 1 − i) times
    the rate, adapters included, and embeddings x^L times; head, pooler and a norm above the last
    layer have the full rate (Clark et al. 2020, arXiv 2003.10555). With a LoRA+ ratio, matrices B
    have that many times the rate (Hayou et al. 2024, arXiv 2402.12354).
    """
    rates = {
        "adapter": cell.learning_rate,
        "base": cell.learning_rate if cell.mode == "full" else cell.learning_rate_base,
        "head": cell.learning_rate if cell.mode == "full" else cell.learning_rate_head,
    }
    engine = engine_of(cell)
    places = {name: engine.place_of(model, name) for name, _ in model.named_parameters()}
    layers = [place[1] for place in places.values() if place and place[1] is not None]
    depth = 1 + max(layers, default=-1)

    def factor_of(name: str) -> float:
        factor, place = cell.lora_plus_ratio if ".lora_B" in name else 1.0, places[name]
        if place is None or ".pooler." in name:  # of the top
            return factor
        above = depth if place[1] is None else depth - 1 - place[1]
        return factor * cell.layer_decay**above

    groups = []
    for group, parameters in engine.parameter_groups(model).items():
        rate = rates[group]
        if rate is None:
            continue
        alike = grouped(parameters.items(), lambda item: (float(decays(*item)), factor_of(item[0])))
        groups += [
            ParameterGroup([parameter for _, parameter in own], rate * factor, decay)
            for (decay, factor), own in sorted(alike.items(), reverse=True)
        ]
    return groups


def class_weights(train: Mapping[str, Split], task: Task, cell: Cell) -> dict[str, Tensor]:
    """Weights [C] of the classes by part of the task, for parts that weigh them: a class with n of
    N training examples weighs N / (C n), with C the number of classes that have any; the others
    0."""
    weights = {}
    for part, split in train.items():
        if cell.class_weights == BALANCED and split.loss in (CROSS_ENTROPY, BINARY, WORDS):
            classes = len((find_task(part) if part else task).classes)
            counts = problem_of(split.labels).counts(split.labels, classes)
            inverse = np.divide(1.0, counts, out=np.zeros(classes), where=counts > 0)
            balanced = counts.sum() / np.count_nonzero(counts) * inverse
            weights[part] = torch.from_numpy(balanced.astype(np.float32))
    return weights


def factors_of(cell: Cell) -> dict[str, tuple[float, float]]:
    """By part, the factor on the rates of `trained_groups`, and the factor on their decays."""
    if cell.task_rates is None:
        return {"": (1.0, cell.weight_decay)}
    rates, decays = parse_parts(cell.task_rates), parse_parts(cell.task_decays or "")
    return {part: (rate, decays[part]) for part, rate in rates.items()}


def examples(job: Job) -> dict[str, tuple[Split, Split]]:
    """Train and dev of each part as token ids: mapped from the cache, or else tokenised now.
    InputError if they have changed since the cell was planned.

    Targets of a regression are standardised by the training set's mean and std, which changes no
    correlation and lets one learning rate serve every scale of ratings.
    """
    cell, tokenizer, parts = job.cell, Path(job.tokenizer), parts_of(job.cell)
    folder, task = folder_of(job), task_of(job)
    sides = tokens.read(cell, tokenizer, folder)
    if sides is None or {piece.partition(".")[0] for piece in sides} != set(parts):
        sides = tokens.make(load_examples(job), cell, tokenizer, folder)
    return {
        part: _splits(
            [both for piece, both in sides.items() if piece.partition(".")[0] == part],
            loss,
            regression=(find_task(part) if part else task).kind == "regression",
        )
        for part, loss in losses_of(task, parts, cell.regression_loss).items()
    }


def standard(labels: NDArray[np.generic]) -> tuple[float, float]:
    """The mean and the std by which a regression's targets are standardised; the value and 1 for
    labels that are all the same: the rounding error of their mean must not be divided by."""
    numbers = np.asarray(labels, dtype=np.float64)
    if constant(numbers):
        return float(numbers[0]), 1.0
    return float(np.mean(numbers)), float(np.std(numbers))


def _splits(pieces: Sequence[tokens.Sides], loss: str, *, regression: bool) -> tuple[Split, Split]:
    """Train and dev of a part with their targets, from the piece of its first texts and, for pairs,
    that of its second texts."""
    in_float = regression or kind_of(loss) == MULTI_LABEL
    mean, std = standard(pieces[0][0].labels) if regression else (0.0, 1.0)
    splits = []
    for side in (0, 1):
        labels = np.array(pieces[0][side].labels)  # a copy that torch can write to
        targets = ((labels - mean) / std).astype(np.float32) if in_float else labels
        texts = tuple(piece[side].encoded for piece in pieces)
        splits.append(Split(texts, targets, labels, loss, mean, std, pieces[0][side].documents))
    return splits[0], splits[1]
