"""The batches of a workload, from the lengths of its texts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import InputError
from bench.forecast.costs import Shape, Shapes
from bench.forecast.workload import Workload
from minbert.data.batches import plan_epoch, plan_evaluation
from minbert.data.tasks import Data, for_search, load_data
from minbert.data.tokenizer import Tokenizer

_EPOCHS: Final = 3
"""Epochs whose batches are planned; those of later ones are like them."""
_NONE: Final[Shape] = (0, 0)
"""That of a batch which never comes."""

Lengths = NDArray[np.int64]
Texts = Sequence[Lengths]
"""Tokens of each example's text, [N], or of its first and its second text by themselves."""


def find_shapes(workload: Workload, batch_sizes: Iterable[int]) -> dict[int, dict[str, Shapes]]:
    """Tokenise the data of a workload, as a cell does, and plan its batches of some sizes.

    Returns:
        By batch size, the shapes of the batches by part of the task.

    Raises:
        InputError: if the examples are not those that were planned, or can't be had.
    """
    data: Data = load_data(
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
    train: dict[str, list[Lengths]] = {}
    dev: dict[str, list[Lengths]] = {}
    for piece, of in data.pieces().items():
        part = piece.partition(".")[0]
        encoded, evaluated = (
            tokenizer.encode(side.text_a, side.text_b, workload.max_length)
            for side in (of.train, of.dev)
        )
        lengths = encoded.lengths
        if workload.held_out:
            lengths = lengths[encoded.held_out(workload.held_out)[0]]
        train.setdefault(part, []).append(lengths)
        dev.setdefault(part, []).append(evaluated.lengths)
    return {
        batch_size: shapes_of(
            train,
            dev,
            batch_size=batch_size,
            batching=workload.batching,
            epochs=workload.epochs,
            max_steps=workload.max_steps,
            seeds=workload.seeds,
            task_order=workload.task_order,
        )
        for batch_size in batch_sizes
    }


def shapes_of(
    train: Mapping[str, Texts],
    dev: Mapping[str, Texts],
    *,
    batch_size: int,
    batching: str,
    epochs: int,
    max_steps: int | None,
    seeds: Sequence[int],
    task_order: str | None = None,
) -> dict[str, Shapes]:
    """The shapes of the batches, over all of some seeds, in the order that a worker draws.

    Args:
        train, dev: by part of the task, "" where it has none.
        task_order: how the batches of the parts follow; None without parts.
    """
    longest = {part: _longest(texts) for part, texts in train.items()}
    in_epoch = {part: math.ceil(len(of) / batch_size) for part, of in longest.items()}
    an_epoch = sum(in_epoch.values())
    steps = an_epoch * epochs if max_steps is None else min(an_epoch * epochs, max_steps)
    found: dict[str, list[Shape]] = {part: [] for part in train}
    real = dict.fromkeys(train, 0)
    for seed in seeds:
        for epoch in range(min(epochs, _EPOCHS, math.ceil(steps / an_epoch))):
            rng = np.random.default_rng([seed, epoch])
            plan = plan_epoch(longest, batch_size, rng, batching, task_order)
            for part, indices in plan[: steps - epoch * an_epoch]:
                found[part].append(_shape(train[part], longest[part], indices))
                real[part] += sum(int(of[indices].sum()) for of in train[part])
    share = steps / sum(map(len, found.values()))
    shapes = {}
    for part, texts in train.items():
        of_dev = _longest(dev[part])
        evaluated = [
            _shape(dev[part], of_dev, indices) for indices in plan_evaluation(of_dev, batch_size)
        ]
        shapes[part] = Shapes(
            train=_mean(found[part], len(texts) * min(batch_size, len(longest[part]))),
            train_largest=_largest(found[part]),
            evaluate_largest=_largest(evaluated),
            steps=len(found[part]) * share,
            steps_in_epoch=in_epoch[part],
            train_tokens=sum(map(math.prod, found[part])) * share,
            real_tokens=real[part] * share,
            evaluations=math.ceil(steps / an_epoch),
            evaluate_batches=len(evaluated),
            evaluate_tokens=sum(map(math.prod, evaluated)),
        )
    return shapes


def _longest(texts: Texts) -> Lengths:
    found: Lengths = np.max(texts, axis=0)
    return found


def _shape(texts: Texts, longest: Lengths, indices: Lengths) -> Shape:
    return len(texts) * len(indices), int(longest[indices].max())


def _mean(shapes: Sequence[Shape], texts: int) -> Shape:
    """A whole batch whose length is the mean over all texts."""
    if not shapes:
        return _NONE
    tokens, of = sum(map(math.prod, shapes)), sum(count for count, _ in shapes)
    return texts, max(1, round(tokens / of))


def _largest(shapes: Sequence[Shape]) -> Shape:
    return max(shapes, key=lambda shape: (math.prod(shape), shape[1]), default=_NONE)
