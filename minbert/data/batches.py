"""Planning of batches, and the tensors of a batch.

The cost of a step is that of its longest text, so texts of similar length go together: that more
than halves the work on short sentences, where a random batch is mostly padding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minbert.data.encoded import Encoded
from minbert.data.words import INSIDE_WORD, OUTSIDE_TEXT

CHUNK_BATCHES: Final = 50
"""Batches whose texts are sorted by length together.

Sorting all texts would put the same ones together in every epoch; sorting each batch alone would
save nothing. In a shuffled chunk of 50 batches of 64 the texts of a batch differ by a token or two
in length, so that at most a twentieth of the work is padding, and batches differ in every epoch.
"""


BY_LENGTH: Final = "by-length"
SHUFFLED: Final = "shuffled"
BATCHINGS: Final = (BY_LENGTH, SHUFFLED)
MIXINGS: Final = ("sequential", "round-robin", "proportional")
"""Orders of the batches of several tasks in an epoch."""

LENGTH_MULTIPLE: Final = 8
"""Tokens by which the buckets for compiled code differ.

On average this pads a batch by 4 more tokens, a seventh of a short sentence; with 16 it would be
twice that, with half as many graphs to compile.
"""


@dataclass(frozen=True)
class Batch:
    """B examples, padded to the longest text or to a bucket, S tokens.

    An example is a text or a pair of texts. A pair is one sequence or, in a part of a task, two:
    then there are 2 B sequences, all first texts before all second texts.

    Attributes:
        input_ids: [B, S] or [2 B, S], int64.
        attention_mask: the same shape, 1 at real tokens; None if there is no padding.
        token_type_ids: the same shape, 1 in the second text of a pair; None in a part of a task.
        labels: [B], int64 or float32; of several labels for a text, [B, C], float32; of words at
            their first tokens, [B, S], int64, with `INSIDE_WORD` or `OUTSIDE_TEXT` elsewhere.
        tokens: the number of real tokens.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    token_type_ids: Tensor | None
    labels: Tensor
    tokens: int
    part: str = ""

    @property
    def padded(self) -> int:
        return self.input_ids.numel()


def bucket_of(length: int, longest: int) -> int:
    """The padded length, when code is compiled for each, of a batch whose longest text has `length`
    tokens: a multiple of 8, or the longest length allowed."""
    return min(-(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, longest)


def plan_training(
    lengths: NDArray[np.int64], batch_size: int, rng: np.random.Generator, batching: str = BY_LENGTH
) -> list[NDArray[np.int64]]:
    """Indices of each batch of an epoch: every text once, in random order; one batch has the rest.
    `batching` is `by-length`, texts of similar length together, or `shuffled`. ValueError for
    another."""
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


def plan_epoch(
    lengths: Mapping[str, NDArray[np.int64]],
    batch_size: int,
    rng: np.random.Generator,
    batching: str = BY_LENGTH,
    order: str | None = None,
) -> list[tuple[str, NDArray[np.int64]]]:
    """The part and the indices of each batch of an epoch, with every example of every part once,
    from the `lengths` [N] of each part; `order` of the parts is one of `MIXINGS`, or None if there
    is one part. ValueError for another batching or order."""
    plans = {
        part: plan_training(part_lengths, batch_size, rng, batching)
        for part, part_lengths in lengths.items()
    }
    if order is None:
        return [(part, indices) for part, plan in plans.items() for indices in plan]
    batches = {part: iter(plan) for part, plan in plans.items()}
    counts = {part: len(plan) for part, plan in plans.items()}
    return [(part, next(batches[part])) for part in mix(order, counts, rng)]


def mix(name: str, counts: Mapping[str, int], rng: np.random.Generator) -> list[str]:
    """The task of each step of an epoch that has every batch of every task once, by `counts` of
    batches: all of the first task, then all of the second, and so on; a batch of each in turn, as
    long as it has some; or in random order. ValueError for another name."""
    in_sequence = [task for task, count in counts.items() for _ in range(count)]
    if name == "sequential":
        return in_sequence
    if name == "round-robin":
        rounds = range(max(counts.values(), default=0))
        return [task for number in rounds for task, count in counts.items() if number < count]
    if name == "proportional":
        return [in_sequence[place] for place in rng.permutation(len(in_sequence))]
    raise ValueError(f"no order of tasks is called {name!r}; there are {', '.join(MIXINGS)}")


def plan_evaluation(lengths: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Indices of each batch of an evaluation: every text once, longest last."""
    return _cut(np.argsort(lengths, kind="stable"), batch_size)


def _cut(order: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def longest_of(texts: Sequence[Encoded]) -> NDArray[np.int64]:
    return np.max([encoded.lengths for encoded in texts], axis=0)


def collate(
    texts: Sequence[Encoded],
    labels: NDArray[np.generic],
    indices: Sequence[int] | NDArray[np.int64],
    pad_id: int,
    device: torch.device,
    longest_bucket: int | None = None,
    part: str = "",
) -> Batch:
    """The batch of the examples at some indices, on the device.

    Args:
        texts: token ids of the examples' one text, or of their first and their second texts.
        labels: [N], or [N, C] with several labels for a text; of texts read word by word the number
            of each word, [N, W], also where examples are windows over these texts.
        longest_bucket: pads to a bucket, of which this is the longest; the batch then always has a
            mask, since code is compiled for one. None: it is padded to its longest text.
    """
    chosen = np.asarray(indices)
    longest = int(longest_of(texts)[chosen].max(initial=0))
    columns = np.arange(bucket_of(longest, longest_bucket) if longest_bucket else longest)
    rows = [(e, e.offsets[chosen][:, None], e.lengths[chosen][:, None]) for e in texts]
    real = [columns < lengths for _, _, lengths in rows]  # each [B, S]
    mask = np.concatenate(real)
    has_mask = longest_bucket is not None or not mask.all()

    def padded(name: str, fill: int) -> NDArray[np.int64]:
        values = [
            np.where(is_real, getattr(encoded, name)[np.where(is_real, starts + columns, 0)], fill)
            for (encoded, starts, _), is_real in zip(rows, real, strict=True)
        ]
        return np.concatenate(values).astype(np.int64)

    wanted = labels[chosen if texts[0].text_of is None else texts[0].text_of[chosen]]
    if texts[0].words is not None:
        words = padded("words", -1)  # [B, S]
        wanted = np.take_along_axis(wanted.astype(np.int64), np.maximum(words, 0), axis=1)
        elsewhere = np.where(words == -1, OUTSIDE_TEXT, INSIDE_WORD)
        wanted = np.where(words >= 0, wanted, elsewhere)

    return Batch(
        input_ids=on_device(padded("input_ids", pad_id), device),
        attention_mask=on_device(mask.astype(np.int64), device) if has_mask else None,
        token_type_ids=None if part else on_device(padded("token_type_ids", 0), device),
        labels=on_device(wanted, device),
        tokens=int(mask.sum()),
        part=part,
    )


def on_device(values: NDArray[np.generic], device: torch.device) -> Tensor:
    """An array as a tensor on the device; copies to a GPU are asynchronous, from pinned memory, and
    computations on them queued behind."""
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
