"""Activations of BERT's wide layer, by their names in configurations."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def activate(name: str, u: Tensor) -> Tensor:
    """The activation of u, in the shape of u."""
    if name == "relu":
        return F.relu(u)
    return F.gelu(u, approximate="none" if name == "gelu" else "tanh")


def gradient(name: str, g: Tensor, u: Tensor) -> Tensor:
    """The gradient of u, given that of its activation; both have the shape of u."""
    if name == "relu":
        return torch.where(u > 0, g, 0)
    du: Tensor = torch.ops.aten.gelu_backward(
        g, u, approximate="none" if name == "gelu" else "tanh"
    )
    return du
