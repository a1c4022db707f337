"""What LoRA and DoRA layers share: a frozen linear layer, and low-rank factors beside it."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from adapters.product import AdaptedProduct, has_zero
from minbert.kernels.activations import activate
from minbert.kernels.precision import product_dtype
from minbert.kernels.reference import is_plain


@dataclass(frozen=True, kw_only=True)
class Part:
    """One layer of PEFT's format: a whole linear layer, or some output rows of a fused one.

    Attributes:
        name: the layer's full name in the format, such as `….attention.self.query`.
        rank: of its update; 0 for a part of a fused layer that carries no adapter.
        alpha: numerator of its scale.
        rslora: whether the scale is alpha / √rank (rsLoRA, arXiv 2312.03732) and not alpha / rank.
    """

    name: str
    rank: int
    alpha: float
    rslora: bool = False

    @property
    def scale(self) -> float:
        """The factor of the update B A."""
        if self.rank == 0:
            return 0.0
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclass(frozen=True)
class Decomposed:
    """An adapted weight c ⊙ V: V [o, i], and in DoRA c = m / n, all three [o].

    `scaled` says where c comes from m; None: everywhere. As a branch, `weight` is W and not V.
    """

    weight: Tensor
    magnitude_over_norm: Tensor | None = None
    norms: Tensor | None = None
    magnitude: Tensor | None = None
    scaled: Tensor | None = None


class AdaptedLinear(nn.Module, ABC):
    """A linear layer whose weight and bias are frozen, with trainable factors A and B.

    The layer takes over the linear layer's own parameters, under the same names. It is made of
    p parts of equal height (3 for fused query, key and value, else 1), and factors of all parts
    are stacked. Parts of lower rank, or of none, are padded with zeros, in A and in B: the
    gradient of each is a product with the other, so the padding is zero for good, through any
    number of AdamW steps too, and the layer trains as if it were not there.

    The merged weight is built anew in every forward pass, in fp32 or better with autocast off,
    and nothing is cached; `adapters.product` multiplies by it, or for few tokens has the update as
    a branch beside the frozen weight. A and B are kept in fp32 or better, whatever the type of the
    frozen weight.

    Args:
        linear: the layer to adapt, weight [o, i].
        parts: its p parts, stacked by output row in this order.

    Attributes:
        weight: [o, i], frozen.
        bias: [o] or None, frozen.
        lora_A: [p, r, i], r the highest rank of a part; zero until `draw` or a load.
        lora_B: [p, o / p, r], zero at first.
        scales: [p, 1, 1], the parts' factors; not in the state dict.
        adapter_names: names of the parameters that train.
    """

    adapter_names: ClassVar[tuple[str, ...]] = ("lora_A", "lora_B")

    def __init__(self, linear: nn.Linear, parts: Sequence[Part]) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.parts = tuple(parts)
        self.weight = linear.weight.requires_grad_(False)
        self.bias: nn.Parameter | None = linear.bias
        if self.bias is not None:
            self.bias.requires_grad_(False)
        count, rank = len(self.parts), max(part.rank for part in self.parts)
        height = self.out_features // count
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        like = torch.empty(0, dtype=dtype, device=self.weight.device)
        self.lora_A = nn.Parameter(like.new_zeros(count, rank, self.in_features))
        self.lora_B = nn.Parameter(like.new_zeros(count, height, rank))
        scales = like.new_tensor([part.scale for part in self.parts])
        self.register_buffer("scales", scales.view(-1, 1, 1), persistent=False)
        self.scales: Tensor

    def draw(self, seed: int) -> None:
        """Draw A as PEFT does, Kaiming-uniform with a = √5, that is from ±1/√i; B stays zero.

        The numbers depend on the seed and each part's name alone: neither on the global generator
        nor on the device, the other layers, or whether the layer is fused.
        """
        for index, part in enumerate(self.parts):
            if part.rank == 0:
                continue
            name = hashlib.sha256(f"{seed} {part.name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(name[:8], "big") >> 1)
            drawn = torch.empty(part.rank, self.in_features)
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            with torch.no_grad():
                self.lora_A[index, : part.rank] = drawn.to(self.lora_A)

    @torch.no_grad()
    def updated_weight(self) -> Tensor:
        """W + s B A, [o, i], a constant, in the type of A and B. For use with autocast off."""
        stacked = self.weight.to(self.lora_A.dtype).view(len(self.parts), -1, self.in_features)
        updated = torch.baddbmm(stacked, self.lora_B * self.scales, self.lora_A)
        return updated.view(self.out_features, self.in_features)

    @abstractmethod
    def decomposed(self, *, branch: bool = False) -> Decomposed:
        """What the adapted weight is made of, as constants. For use with autocast off."""

    @abstractmethod
    def uses_side_branch(self, tokens: int) -> bool:
        """Whether a branch needs fewer operations than a merge, for so many tokens."""

    def adapted_weight(self) -> Tensor:
        """The weight [o, i] that stands for the layer with its adapter, in the type of A and B.

        For use with autocast off. A constant: training goes through `forward`.
        """
        found = self.decomposed()
        return (
            found.weight
            if found.magnitude_over_norm is None
            else found.magnitude_over_norm[:, None] * found.weight
        )

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """Map x [..., i], or an activation of it, to [..., o].

        The product is in autocast's type, or without it in x's. `activation` is one of
        `minbert.model.config.ACTIVATIONS`.
        """
        if is_plain():
            return self._plain(x if activation is None else activate(activation, x))
        magnitude: Tensor | None = getattr(self, "magnitude", None)
        zeros = magnitude is not None and torch.is_grad_enabled() and has_zero(magnitude)
        dtype = product_dtype(x)
        # in half precision the branch's small results would be lost beside the others' last digits
        exact = torch.finfo(dtype).bits >= 32
        branch = exact and not zeros and self.uses_side_branch(x.numel() // self.in_features)
        with torch.autocast(x.device.type, enabled=False):
            found = self.decomposed(branch=branch)
            weight, updated = found.weight, found.weight if zeros else None
            ratio = found.magnitude_over_norm
            if ratio is not None and not branch:  # V is this pass's own, so in place
                weight = weight * ratio[:, None] if zeros else weight.mul_(ratio[:, None])
            y: Tensor = AdaptedProduct.apply(
                x, self.lora_A, self.lora_B, magnitude, weight, ratio, found.norms,
                found.scaled, self.bias, self.scales, dtype, updated, activation, branch,
            )  # type: ignore[no-untyped-call]  # fmt: skip
        return y

    def _plain(self, x: Tensor) -> Tensor:
        """The definition, under autograd."""
        dtype = product_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            found = self.decomposed()
            stacked = self.weight.to(self.lora_A.dtype).view(len(self.parts), -1, self.in_features)
            weight = torch.baddbmm(stacked, self.lora_B * self.scales, self.lora_A).flatten(0, 1)
            if found.magnitude is not None and found.norms is not None:
                ratios = found.magnitude / found.norms
                if found.scaled is not None:
                    ratios = torch.where(found.scaled, ratios, 1.0)
                weight = ratios[:, None] * weight
            bias = None if self.bias is None else self.bias.to(dtype)
            return F.linear(x.to(dtype), weight.to(dtype), bias)

    def extra_repr(self) -> str:
        """Sizes and ranks, for `print(model)`."""
        ranks = ", ".join(str(part.rank) for part in self.parts)
        return f"{self.in_features}, {self.out_features}, rank={ranks}"


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one that has this name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
