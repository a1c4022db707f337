"""Which examples go into a batch together, and the tensors of a batch.

The cost of a step is that of its longest text, so texts of like length go together: that more
than halves the work on short sentences, where a random batch is mostly padding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minbert.data.encoded import Encoded

CHUNK_BATCHES: Final = 50
"""Batches whose texts are sorted by length together.

Sorting all texts would put the same ones together in every epoch; sorting each batch alone would
save nothing. In a shuffled chunk of 50 batches of 64 the texts of a batch differ by a token or two
in length, so that a twentieth of the work or less is padding, and who is with whom is drawn anew.
"""


BY_LENGTH: Final = "by-length"
SHUFFLED: Final = "shuffled"
BATCHINGS: Final = (BY_LENGTH, SHUFFLED)

LENGTH_MULTIPLE: Final = 8
"""Tokens by which the buckets of code that is compiled differ.

A batch is padded by 4 tokens more in the mean, a seventh of a short sentence; with 16 it would be
twice that, and there would be half as many graphs to compile.
"""


@dataclass(frozen=True)
class Batch:
    """B texts padded to the longest of them or to a bucket, S tokens.

    `attention_mask` may be None where nothing is padding; else it is 1 at real tokens and 0 at
    padding. `tokens` counts real ones.
    """

    input_ids: Tensor  # [B, S] int64
    attention_mask: Tensor | None  # [B, S] int64
    token_type_ids: Tensor  # [B, S] int64
    labels: Tensor  # [B] int64 or float32
    tokens: int

    @property
    def padded(self) -> int:
        """Tokens with padding, B · S."""
        return self.input_ids.numel()


@dataclass(frozen=True)
class Buckets:
    """The few lengths that batches are padded to where code is compiled for each.

    They are the multiples of 8 tokens, as far as a text may be long.

    Attributes:
        longest: tokens after which a text is cut, the last of the lengths.
    """

    longest: int

    def of(self, length: int) -> int:
        """The length that a batch is padded to whose longest text has so many tokens."""
        return min(-(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, self.longest)


def plan_training(
    lengths: NDArray[np.int64], batch_size: int, rng: np.random.Generator, batching: str = BY_LENGTH
) -> list[NDArray[np.int64]]:
    """Indices of each batch of an epoch: every text once, in random order.

    Every batch has `batch_size` texts but one, which has the rest. `batching` is `by-length`, texts
    of like length together, or `shuffled`, as a sampler without regard to length draws them.

    Raises:
        ValueError: for another.
    """
    if batching not in BATCHINGS:
        raise ValueError(f"no batching is called {batching!r}; there are {', '.join(BATCHINGS)}")
    order = rng.permutation(len(lengths))
    if batching == SHUFFLED:
        return _cut(order, batch_size)
    span = batch_size * CHUNK_BATCHES
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), span):
        chunk = order[start : start + span]
        batches += _cut(chunk[np.argsort(lengths[chunk], kind="stable")], batch_size)
    return [batches[index] for index in rng.permutation(len(batches))]


def plan_evaluation(lengths: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Indices of each batch of an evaluation: every text once, longest last."""
    return _cut(np.argsort(lengths, kind="stable"), batch_size)


def _cut(order: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def collate(
    encoded: Encoded,
    labels: NDArray[np.generic],
    indices: Sequence[int] | NDArray[np.int64],
    pad_id: int,
    device: torch.device,
    buckets: Buckets | None = None,
) -> Batch:
    """The batch of the texts at some indices, on the device.

    Args:
        buckets: what it is padded to; then it has a mask in any case, since code is compiled for
            one with or without. None: its longest text.
    """
    chosen = np.asarray(indices)
    starts, lengths = encoded.offsets[chosen], encoded.lengths[chosen]
    longest = int(lengths.max(initial=0))
    columns = np.arange(longest if buckets is None else buckets.of(longest))
    real = columns < lengths[:, None]  # [B, S]
    masked = buckets is not None or not real.all()
    places = np.where(real, starts[:, None] + columns, 0)

    def padded(values: NDArray[np.generic], fill: int) -> Tensor:
        return on_device(np.where(real, values[places], fill).astype(np.int64), device)

    return Batch(
        input_ids=padded(encoded.input_ids, pad_id),
        attention_mask=on_device(real.astype(np.int64), device) if masked else None,
        token_type_ids=padded(encoded.token_type_ids, 0),
        labels=on_device(labels[chosen], device),
        tokens=int(lengths.sum()),
    )


def on_device(values: NDArray[np.generic], device: torch.device) -> Tensor:
    """An array as a tensor on the device. A copy to a GPU is from pinned memory, and not waited
    for: what is computed on it is queued behind it."""
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def prepare_epoch(
    encoded: Encoded,
    labels: NDArray[np.generic],
    batch_size: int,
    rng: np.random.Generator,
    *,
    pad_id: int,
    device: torch.device,
    batching: str = BY_LENGTH,
    buckets: Buckets | None = None,
) -> Iterator[Batch]:
    """The batches of an epoch, each made when it is asked for, so that one is held at a time."""
    for indices in plan_training(encoded.lengths, batch_size, rng, batching):
        yield collate(encoded, labels, indices, pad_id, device, buckets)
