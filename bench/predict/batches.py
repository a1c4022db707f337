"""The batches of a workload, from the lengths of its texts."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.errors import InputError
from bench.predict.costs import Shape, Shapes
from bench.predict.workload import Workload
from minbert.batches import plan_evaluation, plan_training
from minbert.tasks import for_search, load_task
from minbert.tokenizer import Tokenizer

_EPOCHS: Final = 3
"""Epochs whose batches are planned; those of later ones are like them."""

Lengths = NDArray[np.int64]


def find_shapes(workload: Workload) -> Shapes:
    """Tokenise the data of a workload, as a cell does, and plan its batches.

    Raises:
        InputError: if the examples are not those that were planned, or can't be had.
    """
    data = load_task(
        workload.task,
        None if workload.data is None else Path(workload.data),
        max_train=workload.max_train,
        max_dev=workload.max_dev,
    )
    if workload.searches:
        data = for_search(data)
    if not data.digest.startswith(workload.data_digest):
        raise InputError(f"the examples of {workload.task} are not those that were planned")
    tokenizer = Tokenizer.from_folder(Path(workload.tokenizer))
    train, dev = (
        tokenizer.encode(of.text_a, of.text_b, workload.max_length) for of in (data.train, data.dev)
    )
    lengths = train.lengths
    if workload.held_out:
        lengths = lengths[train.held_out(workload.held_out)[0]]
    return shapes_of(
        lengths,
        dev.lengths,
        batch_size=workload.batch_size,
        batching=workload.batching,
        epochs=workload.epochs,
        max_steps=workload.max_steps,
        seeds=workload.seeds,
    )


def shapes_of(
    train: Lengths,
    dev: Lengths,
    *,
    batch_size: int,
    batching: str,
    epochs: int,
    max_steps: int | None,
    seeds: Sequence[int],
) -> Shapes:
    """The shapes of the batches, over all of some seeds, in the order that a worker draws."""
    an_epoch = math.ceil(len(train) / batch_size)
    steps = an_epoch * epochs if max_steps is None else min(an_epoch * epochs, max_steps)
    found: list[Shape] = []
    real = 0
    for seed in seeds:
        for epoch in range(min(epochs, _EPOCHS, math.ceil(steps / an_epoch))):
            rng = np.random.default_rng([seed, epoch])
            plan = plan_training(train, batch_size, rng, batching)
            taken = plan[: steps - epoch * an_epoch]
            found += _shapes(taken, train)
            real += sum(int(train[indices].sum()) for indices in taken)
    evaluated = _shapes(plan_evaluation(dev, batch_size), dev)
    share = steps / len(found)
    return Shapes(
        train=_mean(found, min(batch_size, len(train))),
        train_largest=_largest(found),
        evaluate_largest=_largest(evaluated),
        steps=steps,
        train_tokens=sum(map(math.prod, found)) * share,
        real_tokens=real * share,
        evaluations=math.ceil(steps / an_epoch),
        evaluate_batches=len(evaluated),
        evaluate_tokens=sum(map(math.prod, evaluated)),
    )


def _shapes(plan: Sequence[Lengths], lengths: Lengths) -> list[Shape]:
    return [(len(indices), int(lengths[indices].max())) for indices in plan]


def _mean(shapes: Sequence[Shape], texts: int) -> Shape:
    """A whole batch whose length is the mean over all texts."""
    tokens, of = sum(map(math.prod, shapes)), sum(count for count, _ in shapes)
    return texts, max(1, round(tokens / of))


def _largest(shapes: Sequence[Shape]) -> Shape:
    return max(shapes, key=lambda shape: (math.prod(shape), shape[1]))
