"""Compiling a cell's training step: for which batches, and from an empty cache."""

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
"""Environment: where torch's compiler, and triton, keep what they have compiled."""


def buckets_of(cell: Cell) -> Buckets | None:
    """What the batches of a cell are padded to; None where each is as long as its longest text."""
    return Buckets(cell.max_length) if cell.is_compiled else None


def compile_for(model: BertClassifier, train: Split, cell: Cell, epochs: int) -> CompiledModel:
    """A cell's model, compiled for the whole batches of its first epochs.

    Raises:
        InputError: as `compile_model`.
    """
    lengths, buckets = train.lengths, Buckets(cell.max_length)
    texts = min(cell.batch_size, len(train))
    found: set[int] = set()
    for epoch in range(epochs):
        rng = np.random.default_rng([cell.seed, epoch])
        plan = plan_training(lengths, cell.batch_size, rng, cell.batching)
        whole = (indices for indices in plan if len(indices) == texts)
        found |= {buckets.of(int(lengths[indices].max())) for indices in whole}
    return compile_model(model, texts=texts, lengths=found, amp=cell.amp)


@contextmanager
def empty_cache(folder: Path) -> Iterator[None]:
    """While it is entered, what is compiled is kept below a folder, and what was compiled before is
    not found: compiling takes as long in each cell as in the first. Nothing is left behind."""
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
