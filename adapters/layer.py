"""A linear layer with an adapter: what all methods share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from adapters.methods import Method
from minbert.kernels.activations import activate
from minbert.kernels.precision import product_dtype


@dataclass(frozen=True, kw_only=True)
class Part:
    """One layer of PEFT's format: a whole linear layer, or some output rows of a fused one.

    Attributes:
        name: the layer's full name in the format, such as `….attention.self.query`.
        rank: of its update, 1 if the method has no ranks; 0 for a part of a fused layer that has
            no adapter.
        alpha: numerator of its scale.
        rslora: whether the scale is alpha / √rank (rsLoRA, arXiv 2312.03732) and not alpha / rank.
    """

    name: str
    rank: int
    alpha: float
    rslora: bool = False

    @property
    def scale(self) -> float:
        """The factor of the update."""
        if self.rank == 0:
            return 0.0
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class AdaptedLinear(nn.Module, ABC):
    """A linear layer whose weight and bias are frozen, and parameters of an adapter that train.

    The layer takes over the linear layer's own parameters, under the same names. It is made of
    p parts of equal height: 3 for fused query, key and value, else 1.

    Args:
        linear: the layer to adapt, weight [o, i].
        parts: its p parts, stacked by output row in this order.

    Attributes:
        method: the entry of `adapters.methods` that names the parameters which train.
        weight: [o, i], frozen.
        bias: [o] or None, frozen.
    """

    method: ClassVar[Method]

    def __init__(self, linear: nn.Linear, parts: Sequence[Part]) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.parts = tuple(parts)
        self.weight = linear.weight.requires_grad_(False)
        self.bias: nn.Parameter | None = linear.bias
        if self.bias is not None:
            self.bias.requires_grad_(False)

    @abstractmethod
    def reset_parameters(self, seed: int) -> None:
        """Start the adapter anew: the layer then computes what the frozen layer computes.

        Random numbers depend on the seed and each part's name alone: neither on the global
        generator nor on the device, the other layers, or whether the layer is fused.
        """

    @abstractmethod
    def adapted_weight(self) -> Tensor:
        """The weight [o, i] of a plain layer of the same function, by the method's definition.

        In fp32 or better, differentiable. For use with autocast off.
        """

    @abstractmethod
    def weight_change(self) -> Tensor:
        """The adapted weight less the frozen one, [o, i]. For use with autocast off."""

    @abstractmethod
    def part_tensors(self, index: int) -> dict[str, Tensor]:
        """The parameters of a part by their names here, as views in the shapes of PEFT's format."""

    @staticmethod
    @abstractmethod
    def part_shapes(part: Part, width_in: int, width_out: int) -> dict[str, tuple[int, ...]]:
        """Shapes of what `part_tensors` gives for a part with weight [width_out, width_in]."""

    @abstractmethod
    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """Map x [..., i], or an activation of it, to [..., o].

        The product is in autocast's type, or without autocast in x's. `activation` is one of
        `minbert.model.config.ACTIVATIONS`.
        """

    def reference_forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """As `forward`: y = x Vᵀ + b with V the adapted weight, in torch's own operators."""
        x = x if activation is None else activate(activation, x)
        dtype = product_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.to(dtype)
            return F.linear(x.to(dtype), self.adapted_weight().to(dtype), bias)

    def extra_repr(self) -> str:
        """Sizes and ranks, for `print(model)`."""
        ranks = ", ".join(str(part.rank) for part in self.parts)
        return f"{self.in_features}, {self.out_features}, rank={ranks}"


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one that has this name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
