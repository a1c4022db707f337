"""Compiling of a cell's training step for the shapes of its batches, and the cache of its code."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import numpy as np

from bench.plan.cell import Cell
from bench.worker.setup import Split
from minbert.data.batches import Buckets, plan_training
from minbert.errors import InputError
from minbert.model.classifier import BertClassifier
from minbert.training.compiled import CompiledModel, compile_model

_CACHES: Final = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Environment variables that name the caches of torch's compiler and of triton."""
CACHE: Final = "compiled"
"""The folder of compiled code, beside the folders of the cells that share it."""
MOST_MIB: Final = 8192
"""Size above which the next cell starts with an empty cache; torch itself removes nothing."""
_LOCK: Final = "lock"
_UNFINISHED: Final = ".unfinished"


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
def shared_cache(folder: Path) -> Iterator[None]:
    """Use the cache for compiled code that the cells of a run share, within the block.

    Cells may compile at the same time: torch writes entries by renaming, or under locks. But a C++
    compiler that is killed may leave half a library, which torch would load later. So a cell marks
    that it compiles; if the mark stays, since its process was killed or could not compile, the next
    cell that is alone there empties the cache.

    Args:
        folder: the cell's folder, beside which the cache is.
    """
    place = folder.resolve().parent / CACHE
    place.mkdir(exist_ok=True)
    mark = place / f"{folder.name}{_UNFINISHED}"
    before = {name: os.environ.get(name) for name in _CACHES}
    with (place / _LOCK).open("wb") as lock:
        with suppress(OSError):  # others compile, or the file system has no locks
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _empty_if_unsound(place)
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        mark.touch()
        os.environ.update({name: str(place / name.lower()) for name in _CACHES})
        is_sound = True
        try:
            yield
        except InputError:  # perhaps of what the cache holds
            is_sound = False
            raise
        finally:
            if is_sound:
                mark.unlink(missing_ok=True)
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _empty_if_unsound(place: Path) -> None:
    """Empty a cache that nobody uses if a cell did not finish compiling, or if it is too large."""
    sizes = (path.stat().st_size for path in place.rglob("*"))
    if any(place.glob(f"*{_UNFINISHED}")) or sum(sizes) > MOST_MIB * 2**20:
        for name in _CACHES:
            shutil.rmtree(place / name.lower(), ignore_errors=True)
        for mark in place.glob(f"*{_UNFINISHED}"):
            mark.unlink()
