"""Several tasks on one encoder, or on two: one for sentences and one for pairs.

Letters in shapes: B examples, S tokens in the longest text, H hidden size, C outputs of a task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minbert.data.batches import plan_training
from minbert.data.encoded import Encoded
from minbert.data.mixing import mix
from minbert.model.classifier import POOLINGS, mean_of_real
from minbert.model.comparison import Comparison
from minbert.model.config import BertConfig
from minbert.model.encoder import BertEncoder
from minbert.model.heads import HEADS, find_head

SHARED, APART = 1, 2
"""Numbers of encoders."""


@dataclass(frozen=True)
class Aim:
    """What a model has to give for a task: how many outputs, for texts or for pairs of them."""

    outputs: int
    pairs: bool


@dataclass(frozen=True)
class PairBatch:
    """B texts, or B pairs as 2 B texts, the first ones and then the second, padded to the longest.

    Attributes:
        input_ids: [B, S] or [2 B, S], int64.
        attention_mask: the same, 1 at real tokens; None where nothing is padding.
        labels: [B], int64 or float32.
        tokens: how many are real.
        pairs: whether there are two texts to a label.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    labels: Tensor
    tokens: int
    pairs: bool

    @property
    def padded(self) -> int:
        """Tokens with padding, of all texts."""
        return self.input_ids.numel()


class MultitaskModel(nn.Module):
    """Texts and pairs of texts to the logits of several tasks.

    The two texts of a pair go through the encoder by themselves. What they have in common is one
    vector by a comparison that all tasks on pairs share; each task has a head of its own. A head by
    convolutions reads the tokens of a text; for pairs, whose vector has none, it is the nonlinear
    one.

    Args:
        config: of each encoder.
        aims: the tasks by name.
        encoders: 1, shared by all tasks, or 2, the second for tasks on pairs alone.
        head: one of `minbert.model.heads.HEADS`.
        pooling: as of `BertClassifier`; an encoder whose tokens are all read has no pooler.
        dropout: probability, before heads and comparison.

    Raises:
        ValueError: for an argument that is none of those.
    """

    def __init__(
        self,
        config: BertConfig,
        aims: Mapping[str, Aim],
        *,
        encoders: int,
        head: str,
        pooling: str,
        dropout: float,
    ) -> None:
        if pooling not in POOLINGS:
            raise ValueError(f"no pooling is called {pooling!r}; there are {', '.join(POOLINGS)}")
        if encoders not in (SHARED, APART):
            raise ValueError(f"{encoders} encoders: there can be 1 or 2")
        if not aims:
            raise ValueError("a model needs a task")
        super().__init__()
        width, by_pooler = config.hidden_size, pooling == "pooler"
        self.aims = dict(aims)
        any_pairs = any(aim.pairs for aim in aims.values())
        two = encoders == APART and any_pairs and not all(aim.pairs for aim in aims.values())
        pools = (any_pairs and not two) or not (head in HEADS and HEADS[head].reads_tokens)
        self.bert = BertEncoder(config, pooler=by_pooler and pools)
        self.bert_pairs = BertEncoder(config, pooler=by_pooler) if two else None
        self.comparison = Comparison(width, dropout) if any_pairs else None
        self.classifier = nn.ModuleDict(
            {
                task: find_head(_head_for(head, aim), width, aim.outputs, dropout)
                for task, aim in aims.items()
            }
        )

    def forward(self, task: str, batch: PairBatch) -> Tensor:
        """Logits [B, C] of a task's batch."""
        head, pairs = self.classifier[task], self.aims[task].pairs
        encoder = self.bert if not pairs or self.bert_pairs is None else self.bert_pairs
        by_token = bool(head.reads_tokens)
        first_only = encoder.pooler is not None and not by_token
        hidden = encoder(batch.input_ids, batch.attention_mask, None, first_only=first_only)
        if by_token:
            hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
            found: Tensor = head(hidden, batch.attention_mask)
            return found
        pooled = (
            mean_of_real(hidden, batch.attention_mask)
            if encoder.pooler is None
            else encoder.pooler(hidden)
        )
        if self.comparison is not None and pairs:
            pooled = self.comparison(*pooled.chunk(2))
        logits: Tensor = head(pooled)
        return logits


def _head_for(head: str, aim: Aim) -> str:
    """The head that a task gets; `find_head` refuses what is none."""
    return "nonlinear" if aim.pairs and head in HEADS and HEADS[head].reads_tokens else head


def plan_tasks(
    lengths: Mapping[str, NDArray[np.int64]],
    batch_size: int,
    rng: np.random.Generator,
    batching: str,
    order: str,
) -> list[tuple[str, NDArray[np.int64]]]:
    """Task and indices of each batch of an epoch, which has every example of every task once.

    Args:
        lengths: of the examples of each task, as `lengths_of` has them, [N].
        batch_size, batching: as of `minbert.data.batches.plan_training`.
        order: one of `minbert.data.mixing.MIXINGS`.

    Raises:
        ValueError: for another batching or order.
    """
    plans = {task: plan_training(of, batch_size, rng, batching) for task, of in lengths.items()}
    turns = {task: iter(plan) for task, plan in plans.items()}
    counts = {task: len(plan) for task, plan in plans.items()}
    return [(task, next(turns[task])) for task in mix(order, counts, rng)]


def lengths_of(texts: Sequence[Encoded]) -> NDArray[np.int64]:
    """Of each example the tokens of its longest text, by which like is put with like, [N]."""
    found: NDArray[np.int64] = np.max([encoded.lengths for encoded in texts], axis=0)
    return found


def collate_texts(
    texts: Sequence[Encoded],
    labels: NDArray[np.generic],
    indices: Sequence[int] | NDArray[np.int64],
    pad_id: int,
    device: torch.device,
) -> PairBatch:
    """The batch of the examples at some indices, on the device.

    Args:
        texts: token ids of the examples' one text, or of their first and their second texts.
        labels: [N].
    """
    chosen = np.asarray(indices)
    longest = int(lengths_of(texts)[chosen].max(initial=0))
    columns = np.arange(longest)
    rows, masks = [], []
    for encoded in texts:
        starts, lengths = encoded.offsets[chosen], encoded.lengths[chosen]
        real = columns < lengths[:, None]  # [B, S]
        places = np.where(real, starts[:, None] + columns, 0)
        rows.append(np.where(real, encoded.input_ids[places], pad_id).astype(np.int64))
        masks.append(real)
    mask = np.concatenate(masks)
    return PairBatch(
        input_ids=torch.from_numpy(np.concatenate(rows)).to(device),
        attention_mask=None if mask.all() else torch.from_numpy(mask.astype(np.int64)).to(device),
        labels=torch.from_numpy(labels[chosen]).to(device),
        tokens=int(mask.sum()),
        pairs=len(texts) > 1,
    )
