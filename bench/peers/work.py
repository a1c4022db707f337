"""The batches that a side trains on: which examples go together, and what is padded."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Final

import numpy as np
import torch

from bench.peers.names import DEFAULT, OURS, TRAINER
from bench.plan.cell import Cell
from bench.worker.compiling import buckets_of
from bench.worker.probes.panel import choose
from bench.worker.setup import Split
from minbert.data.batches import SHUFFLED, Batch, Buckets, collate, plan_training

_SHUFFLED: Final = (DEFAULT, TRAINER)


@dataclass(frozen=True)
class Workload:
    """The batches that are timed, in order of their size; the largest of the epoch; and its count.

    Attributes:
        real_tokens, padded_tokens: of the whole epoch, padding left out and counted.
    """

    panel: list[Batch]
    largest: Batch
    real_tokens: int
    padded_tokens: int


def find_workload(
    side: str, train: Split, cell: Cell, pad_id: int, device: torch.device
) -> Workload:
    """A side's batches of the first epoch. All sides but `default` have the same ones."""
    lengths = train.lengths
    rng = np.random.default_rng([cell.seed, 0])
    order = plan_training(
        lengths, cell.batch_size, rng, SHUFFLED if side in _SHUFFLED else cell.batching
    )
    longest = [int(lengths[indices].max()) for indices in order]
    sizes = [len(indices) * length for indices, length in zip(order, longest, strict=True)]
    chosen = [order[index] for index in choose(sizes, [len(indices) for indices in order])]
    buckets = _buckets(side, cell)
    *panel, largest = (
        as_given(side, collate(train.texts, train.targets, indices, pad_id, device, buckets))
        for indices in (*chosen, order[int(np.argmax(sizes))])
    )
    if buckets is not None:
        sizes = [len(of) * buckets.of(length) for of, length in zip(order, longest, strict=True)]
    return Workload(panel, largest, int(lengths.sum()), sum(sizes))


def training_batches(
    side: str, train: Split, cell: Cell, pad_id: int, device: torch.device
) -> Iterator[Batch]:
    """Batches in the order of a cell, epoch by epoch without end: for losses, which
    are compared on the same batches."""
    for epoch in count():
        rng = np.random.default_rng([cell.seed, epoch])
        for indices in plan_training(train.lengths, cell.batch_size, rng, cell.batching):
            buckets = _buckets(side, cell)
            batch = collate(train.texts, train.targets, indices, pad_id, device, buckets)
            yield as_given(side, batch)


def _buckets(side: str, cell: Cell) -> Buckets | None:
    """What a side's batches are padded to: of a setting that is compiled, ours are."""
    return buckets_of(cell) if side == OURS else None


def as_given(side: str, batch: Batch) -> Batch:
    """The batch as a side gets it: a transformers tokenizer always makes a mask."""
    if side == OURS or batch.attention_mask is not None:
        return batch
    return replace(batch, attention_mask=torch.ones_like(batch.input_ids))
