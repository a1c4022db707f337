"""Comparison of two texts, from a vector for each.

Letters in shapes: B pairs, H hidden size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from minbert.kernels.dropout import dropout


def pair_features(a: Tensor, b: Tensor) -> Tensor:
    """a, b, |a − b|, a ⊙ b and their cosine, concatenated, [B, 4 H + 1], from a and b [B, H]."""
    cosine = F.cosine_similarity(a, b, dim=1)[:, None]
    return torch.cat([a, b, (a - b).abs(), a * b, cosine], dim=1)


class Comparison(nn.Module):
    """Maps the features of a pair to one vector of the encoder's width, for all tasks on pairs.

    Two linear layers, the first of twice the width, each followed by GELU.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.wide = nn.Linear(4 * width + 1, 2 * width, device="meta")
        self.narrow = nn.Linear(2 * width, width, device="meta")
        self.dropped = dropout

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """One vector for each pair, [B, H], from a and b [B, H]."""
        x = dropout(pair_features(a, b), self.dropped, self.training)
        x = dropout(F.gelu(self.wide(x)), self.dropped, self.training)  # [B, 2 H]
        return F.gelu(self.narrow(x))
