"""Shapes of a cell's batches, from the lengths of its texts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.common.grouping import grouped
from bench.forecast.costs import Shape, Shapes, Size
from bench.plan.cell import Cell
from bench.plan.job import Job
from bench.worker.setup import examples, without_held_out
from minbert.data.batches import plan_epoch, plan_evaluation

_EPOCHS: Final = 3  # the number of epochs whose batches are planned; later epochs are alike
_NONE: Final[Shape] = (0, 0)

Lengths = NDArray[np.int64]
Texts = Sequence[Lengths]
"""Tokens of each example, [N], once for each text of an example that is encoded by itself."""


def find_shapes(
    job: Job, seeds: Sequence[int], sizes: Iterable[Size]
) -> dict[Size, dict[str, Shapes]]:
    """Shapes of the examples that a job trains on, by size and by part of the task; InputError if
    they have changed since the cell was planned, or can't be read."""
    shapes: dict[Size, dict[str, Shapes]] = {}
    for max_length, alike in grouped(sizes, lambda size: size[1]).items():
        cut = replace(job, cell=replace(job.cell, max_length=max_length))
        train, dev, unseen = _texts(cut)
        for size in alike:
            cell = replace(cut.cell, gradient_accumulation_steps=size[2])
            shapes[size] = shapes_of(cell, seeds, train, dev, size[0], unseen)
    return shapes


def _texts(job: Job) -> tuple[dict[str, Texts], dict[str, Texts], dict[str, Texts]]:
    """By part of the task, texts to train on, of dev, and held-out ones that it evaluates, too."""
    cell = job.cell
    train: dict[str, Texts] = {}
    dev: dict[str, Texts] = {}
    unseen_texts: dict[str, Texts] = {}
    for part, (trained, evaluated) in examples(job).items():
        if cell.held_out:
            trained, unseen, _ = without_held_out(trained, cell.held_out, cell.max_length)
            if cell.early_stopping is not None:
                unseen_texts[part] = [encoded.lengths for encoded in unseen.texts]
        train[part] = [encoded.lengths for encoded in trained.texts]
        dev[part] = [encoded.lengths for encoded in evaluated.texts]
    return train, dev, unseen_texts


def shapes_of(
    cell: Cell,
    seeds: Sequence[int],
    train: Mapping[str, Texts],
    dev: Mapping[str, Texts],
    batch_size: int,
    unseen_texts: Mapping[str, Texts] | None = None,
) -> dict[str, Shapes]:
    """Shapes of the batches over all seeds, planned as a worker plans them; with early stopping,
    those of all planned epochs. Texts are by part of the task; a task without parts has the single
    part "". Unseen texts are held-out ones that are evaluated with dev after each epoch."""
    epochs, max_steps = cell.epochs, cell.max_steps
    accumulated = cell.gradient_accumulation_steps
    longest = {part: _longest(texts) for part, texts in train.items()}
    in_epoch = {part: math.ceil(len(lengths) / batch_size) for part, lengths in longest.items()}
    epoch_steps = math.ceil(sum(in_epoch.values()) / accumulated)
    steps = epoch_steps * epochs if max_steps is None else min(epoch_steps * epochs, max_steps)
    trained: dict[str, list[Shape]] = {part: [] for part in train}
    real = dict.fromkeys(train, 0)
    planned = 0
    for seed in seeds:
        for epoch in range(min(epochs, _EPOCHS, math.ceil(steps / epoch_steps))):
            rng = np.random.default_rng([seed, epoch])
            plan = plan_epoch(longest, batch_size, rng, cell.batching, cell.task_order)
            plan = plan[: accumulated * (steps - epoch * epoch_steps)]
            planned += math.ceil(len(plan) / accumulated)
            for part, indices in plan:
                trained[part].append(_shape(train[part], longest[part], indices))
                real[part] += sum(int(lengths[indices].sum()) for lengths in train[part])
    share = steps / planned
    batches = sum(map(len, trained.values()))
    shapes = {}
    for part, texts in train.items():
        sides = [dev[part], *([unseen_texts[part]] if unseen_texts else [])]
        evaluated = [
            _shape(side, lengths, indices)
            for side, lengths in zip(sides, map(_longest, sides), strict=True)
            for indices in plan_evaluation(lengths, batch_size)
        ]
        shapes[part] = Shapes(
            train=_mean(trained[part], len(texts) * min(batch_size, len(longest[part]))),
            train_largest=_largest(trained[part]),
            evaluate_largest=_largest(evaluated),
            steps=planned * share * len(trained[part]) / batches,
            steps_in_epoch=math.ceil(in_epoch[part] / accumulated),
            train_tokens=sum(map(math.prod, trained[part])) * share,
            real_tokens=real[part] * share,
            evaluations=math.ceil(steps / epoch_steps),
            evaluate_batches=len(evaluated),
            evaluate_tokens=sum(map(math.prod, evaluated)),
            accumulated=min(accumulated, sum(in_epoch.values())),
        )
    return shapes


def _longest(texts: Texts) -> Lengths:
    return np.asarray(np.max(texts, axis=0))


def _shape(texts: Texts, longest: Lengths, indices: Lengths) -> Shape:
    return len(texts) * len(indices), int(longest[indices].max())


def _mean(shapes: Sequence[Shape], texts: int) -> Shape:
    """The shape of a full batch with the mean length of all texts."""
    if not shapes:
        return _NONE
    tokens, count = sum(map(math.prod, shapes)), sum(count for count, _ in shapes)
    return texts, max(1, round(tokens / count))


def _largest(shapes: Sequence[Shape]) -> Shape:
    return max(shapes, key=lambda shape: (math.prod(shape), shape[1]), default=_NONE)
