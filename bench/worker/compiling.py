"""Compiling of a cell's training step, for the shapes of its batches and with an empty cache."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from bench.plan.cell import Cell
from bench.worker.setup import Split
from minbert.data.batches import Buckets, plan_training
from minbert.model.classifier import BertClassifier
from minbert.training.compiled import CompiledModel, compile_model

_CACHES: Final = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Environment variables that name the caches of torch's compiler and of triton."""


def buckets_of(cell: Cell) -> Buckets | None:
    """The lengths that a cell's batches are padded to; None: each to its longest text."""
    return Buckets(cell.max_length) if cell.is_compiled else None


def compile_for(model: BertClassifier, train: Split, cell: Cell, epochs: int) -> CompiledModel:
    """A cell's model, compiled for the full batches of its first epochs.

    Raises:
        InputError: as `compile_model`.
    """
    lengths, buckets = train.lengths, Buckets(cell.max_length)
    texts = min(cell.batch_size, len(train))
    padded_lengths: set[int] = set()
    for epoch in range(epochs):
        rng = np.random.default_rng([cell.seed, epoch])
        plan = plan_training(lengths, cell.batch_size, rng, cell.batching)
        full = (indices for indices in plan if len(indices) == texts)
        padded_lengths |= {buckets.of(int(lengths[indices].max())) for indices in full}
    return compile_model(model, texts=texts, lengths=padded_lengths, amp=cell.amp)


@contextmanager
def empty_cache(folder: Path) -> Iterator[None]:
    """Use an empty cache for compiled code within the block, so that compiling takes as long in
    each cell as in the first. The cache is a temporary folder below `folder`, removed at the
    end."""
    before = {name: os.environ.get(name) for name in _CACHES}
    with TemporaryDirectory(prefix=".tmp-compiled-", dir=folder) as place:
        os.environ.update({name: str(Path(place) / name.lower()) for name in _CACHES})
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
