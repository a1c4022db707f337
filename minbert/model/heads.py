"""Task heads: from hidden states, or one vector for a text or a pair of texts, to logits.

Letters in shapes: B texts, S tokens in the longest, H hidden size, C outputs. All heads are built
on the meta device; `minbert.model.classifier.initialise` gives them weights.
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from minbert.kernels.dropout import dropout
from minbert.kernels.linear import activate
from minbert.model.config import Head

_WINDOWS: Final = (2, 3, 4)
"""Widths of the convolutions in tokens; each has a third of the channels."""


class LinearHead(nn.Linear):
    """Dropout, then one linear layer on the pooled vector."""

    reads_tokens: Final = False

    def __init__(self, width: int, outputs: int, dropout: float) -> None:
        super().__init__(width, outputs, device="meta")
        self.dropped = dropout

    def forward(self, pooled: Tensor) -> Tensor:
        return super().forward(dropout(pooled, self.dropped, self.training))


class NonlinearHead(nn.Module):
    """Dropout, a linear layer of the same width, GELU, dropout, and a linear layer."""

    reads_tokens: Final = False

    def __init__(self, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width, device="meta")
        self.out = nn.Linear(width, outputs, device="meta")
        self.dropped = dropout

    def forward(self, pooled: Tensor) -> Tensor:
        x = F.gelu(self.dense(dropout(pooled, self.dropped, self.training)))
        return self.out(dropout(x, self.dropped, self.training))


class ClassificationHead(nn.Module):
    """Dropout, a linear layer of the same width, an activation, dropout, and a linear layer: the
    heads that architectures besides BERT have themselves."""

    reads_tokens: Final = False

    def __init__(self, width: int, outputs: int, dropout: float, head: Head) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width, device="meta")
        self.out_proj = nn.Linear(width, outputs, device="meta")
        self.dropped = dropout
        self.head = head

    def forward(self, first: Tensor) -> Tensor:
        dropped = self.dropped if self.head.drops_input else 0.0
        x = self.dense(dropout(first, dropped, self.training))
        name = self.head.activation
        x = torch.tanh(x) if name == "tanh" else activate(name, x)
        return self.out_proj(dropout(x, self.dropped, self.training))


class ConvHead(nn.Module):
    """Convolutions over tokens (Kim 2014, arXiv 1408.5882): windows of 2, 3 and 4 tokens, ReLU, the
    largest value of each channel over the real tokens, dropout and a linear layer."""

    reads_tokens: Final = True

    def __init__(self, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        channels = max(1, width // len(_WINDOWS))
        self.windows = nn.ModuleList(
            nn.Linear(window * width, channels, device="meta") for window in _WINDOWS
        )
        self.out = nn.Linear(channels * len(_WINDOWS), outputs, device="meta")
        self.dropped = dropout

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits [B, C] from hidden states [B, S, H]; the mask [B, S] is 1 at real tokens. A window
        may begin at each of them; past the text's end it sees zeros."""
        real = None if attention_mask is None else attention_mask.bool()[:, :, None]  # [B, S, 1]
        hidden = hidden if real is None else hidden.masked_fill(~real, 0)
        largest = []
        for window, linear in zip(_WINDOWS, self.windows, strict=True):
            padded = F.pad(hidden, (0, 0, 0, window - 1))
            seen = torch.cat([padded[:, n : n + hidden.shape[1]] for n in range(window)], dim=2)
            channels = F.relu(linear(seen))  # [B, S, H / 3]
            channels = channels if real is None else channels.masked_fill(~real, 0)  # ReLU's least
            largest.append(channels.amax(dim=1))
        return self.out(dropout(torch.cat(largest, dim=1), self.dropped, self.training))


def pair_features(a: Tensor, b: Tensor) -> Tensor:
    """a, b, |a − b|, a ⊙ b and their cosine, concatenated, [B, 4 H + 1], from a and b [B, H]."""
    cosine = F.cosine_similarity(a, b, dim=1)[:, None]
    return torch.cat([a, b, (a - b).abs(), a * b, cosine], dim=1)


class PairLayers(nn.Module):
    """Maps the features of a pair to one vector of the encoder's width, for all tasks on pairs: two
    linear layers, the first of twice the width, each followed by GELU."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.wide = nn.Linear(4 * width + 1, 2 * width, device="meta")
        self.narrow = nn.Linear(2 * width, width, device="meta")
        self.dropped = dropout

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = dropout(pair_features(a, b), self.dropped, self.training)
        x = dropout(F.gelu(self.wide(x)), self.dropped, self.training)  # [B, 2 H]
        return F.gelu(self.narrow(x))


HEADS: Final[Mapping[str, type[LinearHead] | type[NonlinearHead] | type[ConvHead]]] = {
    "linear": LinearHead, "nonlinear": NonlinearHead, "conv": ConvHead,
}  # fmt: skip
