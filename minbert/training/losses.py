"""Losses of a batch, and of a whole set of examples as plain arrays."""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from minbert.data.words import INSIDE_WORD
from minbert.registry import load

CROSS_ENTROPY, BINARY, MULTI_LABEL = "cross-entropy", "binary", "multi-label"
WORDS: Final = "words"
MSE, PEARSON = "mse", "pearson"
LOSSES: Final = (CROSS_ENTROPY, BINARY, MULTI_LABEL, WORDS, MSE, PEARSON)
REGRESSION: Final = (MSE, PEARSON)

TEMPERATURE: Final = 0.1  # of the contrastive loss
_NEVER: Final = -1e4  # the logarithm of a probability of 0, without an infinite gradient
_TINY: Final = 1e-8
_ROUNDING: Final = 4  # units in the last place by which numbers may differ and still count as equal


def kind_of(loss: str) -> str:
    """The one of `LOSSES` that has the shapes of a loss, as of `loss_of`."""
    return loss.partition(" ")[0]


def loss_of(
    loss: str,
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The mean loss [] of a batch. ValueError for another loss.

    Args:
        loss: `cross-entropy` of logits [B, C] and classes [B]; `binary`, cross-entropy of one logit
            [B, 1] and classes 0 and 1 [B]; `multi-label`, the same of each logit [B, C] and its
            label, 0 or 1 [B, C], averaged over examples and classes; `words`, cross-entropy of
            logits [B, S, C] and labels [B, S], averaged over those from 0 on; `mse`, the squared
            error of [B, 1] and numbers [B]; or `pearson`, 1 − r of the same. For a batch without a
            correlation, because it is constant or has one example, that is 1 and has no gradient.
            After a space, a function may be named as `module:function` that computes it instead; of
            words from logits [M, C] and labels [M], of which those below 0 don't count.
        class_weights, label_smoothing: of losses of one class, as torch.nn.CrossEntropyLoss has
            them.
    """
    if loss == BINARY and (class_weights is not None or label_smoothing):
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)  # the same with two logits
        loss = CROSS_ENTROPY
    loss, _, function = loss.partition(" ")
    if loss == WORDS:
        logits, labels = logits.flatten(0, -2), labels.flatten().clamp_min(INSIDE_WORD)
        loss = CROSS_ENTROPY
    if function:
        value = load(function)(logits, labels)
        if not (isinstance(value, Tensor) and value.ndim == 0):
            raise ValueError(f"the loss {function} of a plugin gives no tensor of one number")
        return value
    if loss == CROSS_ENTROPY:
        return F.cross_entropy(logits, labels, class_weights, label_smoothing=label_smoothing)
    if loss == BINARY:
        return F.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype))
    if loss == MULTI_LABEL:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    if loss == MSE:
        return F.mse_loss(logits[:, 0], labels)
    if loss == PEARSON:
        return 1 - correlation(logits[:, 0], labels.to(logits.dtype))
    raise ValueError(f"no loss is called {loss!r}; there are {', '.join(LOSSES)}")


def contrastive_loss(vectors: Tensor, labels: Tensor) -> Tensor:
    """The supervised contrastive loss [] (Khosla et al. 2020, arXiv 2004.11362) of vectors [B, H]
    with classes [B]: of each example, how unlike those of its class its vector is by cosine, among
    all others of the batch. Examples that are alone in their class don't count; 0 if all are."""
    unit = F.normalize(vectors, dim=1)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    similar = (unit @ unit.T / TEMPERATURE).masked_fill(itself, _NEVER)
    alike = (labels[:, None] == labels) & ~itself
    count = alike.sum(dim=1)
    each = similar.log_softmax(dim=1).masked_fill(~alike, 0).sum(dim=1) / count.clamp_min(1)
    return -each.sum() / count.count_nonzero().clamp_min(1)


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's r [] of two batches [B]; 0, without a gradient, if one is constant up to rounding,
    as the correlation would be noise, with a gradient as large as any. Numbers that are not finite
    have an r that is not finite."""
    constant = _constant(x) | _constant(y)
    x, y = x - x.mean(), y - y.mean()
    lengths = x.square().sum() * y.square().sum()
    if_none = torch.zeros_like(lengths)
    unknown = constant | (lengths <= _TINY**2)
    # the root's gradient at 0 is infinite, so it is taken of 1 there
    r = (x * y).sum() / torch.where(unknown, 1.0, lengths).sqrt()
    return torch.where(unknown, if_none, r)


def _constant(values: Tensor) -> Tensor:
    """Whether numbers [B] are equal up to rounding, []; False if one is not finite."""
    values = values.detach()
    spread = values.max() - values.min()
    return spread < _ROUNDING * torch.finfo(values.dtype).eps * values.abs().max()


def mean_loss(loss: str, logits: NDArray[np.generic], targets: NDArray[np.generic]) -> float:
    """The loss of `loss_of` over N examples, in double precision, without weights and smoothing; of
    words from their logits [M, C] and tags [N, W]."""
    kind, _, function = loss.partition(" ")
    if kind == WORDS:
        kind, targets = CROSS_ENTROPY, targets[np.asarray(targets) >= 0]
        loss = f"{kind} {function}".strip()
    label_type = np.int64 if kind == CROSS_ENTROPY else np.float64
    x = torch.from_numpy(np.ascontiguousarray(logits, dtype=np.float64))
    y = torch.from_numpy(np.ascontiguousarray(targets, dtype=label_type))
    return float(loss_of(loss, x, y))
