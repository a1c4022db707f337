"""A linear layer with an adapter, the base of all methods."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from adapters.methods import Method
from minbert.kernels.linear import activate
from minbert.kernels.reference import product_dtype


@dataclass(frozen=True, kw_only=True)
class Part:
    """One layer of PEFT's format: a whole linear layer, or some output rows of a fused one.

    Attributes:
        name: the layer's full name in the format, such as `….attention.self.query`.
        rank: of its update; 1 if the method has no ranks; 0 for a part of a fused layer without an
            adapter.
        alpha: numerator of its scale.
        use_rslora: whether the scale's denominator is the square root of the rank (rsLoRA,
            Kalajdzievski 2023, arXiv 2312.03732).
    """

    name: str
    rank: int
    alpha: float
    use_rslora: bool = False

    @property
    def scale(self) -> float:
        """The factor of the update, alpha / rank, or alpha / √rank."""
        if not self.rank:
            return 0.0
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


class AdaptedLinear(nn.Module, ABC):
    """A linear layer with frozen weight [o, i] and bias [o] or None, and an adapter that trains.

    It shares the weights of a plain linear layer, under the same names. It has p parts of equal
    height: 3 for fused query, key and value, else 1.

    Args:
        parts: its p parts, stacked by output row in this order.

    Attributes:
        method: the entry of `adapters.methods` that names the parameters which train.
    """

    method: ClassVar[Method]

    def __init__(self, linear: nn.Linear, parts: Sequence[Part]) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.parts = tuple(parts)
        self.weight = nn.Parameter(linear.weight.detach(), requires_grad=False)
        self.bias: nn.Parameter | None = None
        if linear.bias is not None:
            self.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)

    @abstractmethod
    def reset_parameters(self, seed: int) -> None:
        """Reset the adapter, so that the layer computes the same as the frozen layer. Random
        numbers depend only on the seed and each part's name: not on the global generator, the
        device, other layers, or whether the layer is fused."""

    @abstractmethod
    def adapted_weight(self) -> Tensor:
        """The weight [o, i] of a plain layer with the same function, by the method's definition; in
        fp32 or better, and differentiable. For use with autocast off."""

    @abstractmethod
    def part_tensors(self, index: int) -> dict[str, Tensor]:
        """The parameters of a part by name, as views in the shapes of PEFT's format."""

    def weight_change(self) -> Tensor:
        """The adapted weight minus the frozen one, [o, i]. For use with autocast off."""
        return self.adapted_weight() - self.weight

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """Map x [..., i], or an activation of it, to y = x Vᵀ + b [..., o], V the adapted weight.

        The product is in autocast's type, or without autocast in x's. `activation` is one of
        `minbert.model.config.ACTIVATIONS`. A method may compute the same by a kernel of its own.
        """
        x = x if activation is None else activate(activation, x)
        dtype = product_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.to(dtype)
            return F.linear(x.to(dtype), self.adapted_weight().to(dtype), bias)
