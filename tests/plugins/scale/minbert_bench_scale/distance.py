"""A loss of ordered classes (Hou et al. 2016, arXiv 1611.05916)."""

import torch
from torch import Tensor


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The squared earth mover's distance [] between the probabilities by logits [B, C] and the
    labels [B]: a class costs the more, the further it is from the right one."""
    below = logits.softmax(dim=1).cumsum(dim=1)
    is_below = torch.arange(logits.shape[1], device=logits.device) >= labels[:, None]
    return (below - is_below.to(below.dtype)).square().sum(dim=1).mean()
