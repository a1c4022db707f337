"""The batches that a side trains on, and their padding."""

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
    """The batches to time, by size; the epoch's largest batch; and the epoch's tokens.

    Attributes:
        real_tokens, padded_tokens: tokens of the whole epoch, without and with padding.
    """

    timing_batches: list[Batch]
    largest: Batch
    real_tokens: int
    padded_tokens: int


def find_workload(
    side: str, train: Split, cell: Cell, pad_id: int, device: torch.device
) -> Workload:
    """A side's workload of the first epoch. All sides but `default` have the same batches."""
    lengths = train.lengths
    rng = np.random.default_rng([cell.seed, 0])
    order = plan_training(
        lengths, cell.batch_size, rng, SHUFFLED if side in _SHUFFLED else cell.batching
    )
    longest = [int(lengths[indices].max()) for indices in order]
    sizes = [len(indices) * length for indices, length in zip(order, longest, strict=True)]
    chosen = [order[index] for index in choose(sizes, [len(indices) for indices in order])]
    buckets = _buckets(side, cell)
    *timing_batches, largest = (
        _for_side(side, collate(train.texts, train.targets, indices, pad_id, device, buckets))
        for indices in (*chosen, order[int(np.argmax(sizes))])
    )
    if buckets is not None:
        sizes = [
            len(indices) * buckets.of(length)
            for indices, length in zip(order, longest, strict=True)
        ]
    return Workload(timing_batches, largest, int(lengths.sum()), sum(sizes))


def training_batches(
    side: str, train: Split, cell: Cell, pad_id: int, device: torch.device
) -> Iterator[Batch]:
    """Batches in a cell's order, for epochs without end, to compare losses on the same batches."""
    for epoch in count():
        rng = np.random.default_rng([cell.seed, epoch])
        for indices in plan_training(train.lengths, cell.batch_size, rng, cell.batching):
            buckets = _buckets(side, cell)
            batch = collate(train.texts, train.targets, indices, pad_id, device, buckets)
            yield _for_side(side, batch)


def _buckets(side: str, cell: Cell) -> Buckets | None:
    """The buckets that a side's batches are padded to, for ours in compiled settings."""
    return buckets_of(cell) if side == OURS else None


def _for_side(side: str, batch: Batch) -> Batch:
    """A batch as its side gets it: a transformers tokenizer always makes a mask."""
    if side == OURS or batch.attention_mask is not None:
        return batch
    return replace(batch, attention_mask=torch.ones_like(batch.input_ids))
