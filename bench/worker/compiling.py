"""Compiling of a cell's training step for the shapes of its batches, and the cache of its code."""

import fcntl
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import Final
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from bench.common.errors import InputError
from bench.common.files import make_private
from bench.plan.cell import MINBERT, TRANSFORMERS, Cell
from bench.worker.setup import Split
from minbert.assets.cache import cache_folder
from minbert.data.batches import Batch, bucket_of, plan_training
from minbert.errors import is_out_of_memory
from minbert.model.classifier import Classifier
from minbert.training.compiled import CompiledModel, compile_model, errors_in_a_line, run_passes

_CACHES: Final = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Environment variables that name the caches of torch's compiler and of triton."""
CACHE: Final = "compiled"
"""The folder of compiled code in the user's cache."""
MOST_MIB: Final = 8192
"""Size above which the next cell starts with an empty cache; torch itself removes nothing."""
_LOCK: Final = "lock"
_UNFINISHED: Final = ".unfinished"


class AutoCompiledModel:
    """A model by torch.compile for batches of any shape, as users of transformers compile it;
    compiled now on batches of some shapes, B and S, so that no step has to wait."""

    cached: float | None = None
    """How much of the code came from the compiler's cache is not known."""

    def __init__(self, model: Classifier, shapes: Iterable[tuple[int, int]], amp: str) -> None:
        self._run = torch.compile(model, dynamic=True)
        with errors_in_a_line():
            for texts, length in shapes:
                run_passes(self, model, texts, length, amp)

    def __call__(self, batch: Batch) -> Tensor:
        mask = batch.attention_mask
        if mask is None:  # nothing is masked, which would be other code
            mask = torch.ones_like(batch.input_ids)
        return self._run(batch.input_ids, mask, batch.token_type_ids)


def longest_bucket(cell: Cell) -> int | None:
    """The longest bucket that a cell's batches are padded to; None: each to its longest text."""
    return cell.max_length if cell.is_compiled and cell.engine == MINBERT else None


def compile_for(
    model: Classifier, train: Split, cell: Cell, epochs: int
) -> "CompiledModel | AutoCompiledModel":
    """A cell's model, compiled for the batches of its first epochs; engine minbert's for the full
    ones. InputError as of `compile_model`."""
    lengths, texts = train.lengths, min(cell.batch_size, len(train))
    shapes: set[tuple[int, int]] = set()
    for epoch in range(epochs):
        rng = np.random.default_rng([cell.seed, epoch])
        plan = plan_training(lengths, cell.batch_size, rng, cell.batching)
        shapes |= {(len(indices), int(lengths[indices].max())) for indices in plan}
    if cell.engine == TRANSFORMERS:
        ends = min(shapes, key=math.prod), max(shapes, key=math.prod)
        return AutoCompiledModel(model, ends, cell.amp)
    buckets = {bucket_of(length, cell.max_length) for count, length in shapes if count == texts}
    return compile_model(model, texts=texts, lengths=buckets, amp=cell.amp)


@contextmanager
def shared_cache() -> Iterator[None]:
    """Use the user's cache for compiled code, which all cells share, within the block.

    Torch runs what it finds there. So the folder is the user's alone, and never that of the
    results, which may be a stranger's.

    Cells may compile at the same time: torch writes entries by renaming, or under locks. But a C++
    compiler that is killed may leave half a library, which torch would load later. So a cell marks
    that it compiles. If the mark stays, the next cell that is alone removes what is newer than it;
    if the cell could not compile, everything, since that may be the reason.

    InputError if the folder can't be written, or is not the user's alone.
    """
    place = cache_folder().resolve() / CACHE
    try:
        if not make_private(place):
            raise PermissionError(None, "other users can change it, or it is a link")
        lock = (place / _LOCK).open("ab")
    except OSError as error:
        raise InputError(
            f"compile: code can't be kept in {place} ({error.strerror}); remove it, leave compile "
            "out, or name another cache by MINBERT_CACHE=DIR"
        ) from error
    with lock:
        with suppress(OSError):  # others compile, or the file system has no locks
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_doubtful(place)
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        descriptor, mark = mkstemp(_UNFINISHED, dir=place)
        os.close(descriptor)
        with patch.dict(os.environ, {name: str(place / name.lower()) for name in _CACHES}):
            try:
                yield
            except Exception as error:
                if not is_out_of_memory(error):
                    os.utime(mark, (0, 0))
                    raise
                Path(mark).unlink()
                raise
        Path(mark).unlink()


def _remove_doubtful(place: Path) -> None:
    """Remove files of a cache that nobody uses: those since the first mark that stayed, or all of
    them if they are too large."""
    files = {path: path.stat() for path in place.rglob("*") if path.is_file()}
    since = min((files[path].st_mtime for path in place.glob(f"*{_UNFINISHED}")), default=math.inf)
    if sum(stat.st_size for stat in files.values()) > MOST_MIB * 2**20:
        since = 0
    for path, stat in files.items():
        if stat.st_mtime >= since and path.name != _LOCK:
            path.unlink()
