"""Low-Rank Adaptation of a linear layer (LoRA, Hu et al. 2021, arXiv 2106.09685)."""

from typing import ClassVar

import torch
from torch import Tensor

from adapters.low_rank import LowRankLinear
from adapters.methods import METHODS, Method
from adapters.product import BUSY, ThinProduct
from minbert.kernels.linear import activate
from minbert.kernels.reference import product_dtype


class LoraLinear(LowRankLinear):
    """y = x (W + s B A)ᵀ + b, with A [r, i] and B [o, r] trained, W [o, i] and b [o] frozen, and s
    = alpha / r, or alpha / √r with rsLoRA. Dropout, in training, is on the input of A alone. With B
    zero at first, the layer equals the base layer exactly before training."""

    method: ClassVar[Method] = METHODS["lora"]

    def forward_on_gpu(self, x: Tensor, activation: str | None) -> Tensor:
        # in half precision a GPU multiplies so fast that thin products gain nothing
        is_exact = {product_dtype(x), x.dtype, self.weight.dtype} == {torch.float32}
        if x.numel() * self.out_features < BUSY or not is_exact or self.scale is None:
            return super().forward_on_gpu(x, activation)
        x = x if activation is None else activate(activation, x)
        return ThinProduct.apply(x, self.lora_A, self.lora_B, self.weight, self.bias, self.scale)  # type: ignore[no-untyped-call]

    def weight_and_ratios(self, branch: bool) -> tuple[Tensor, None]:
        """W or W + s B A, [o, i]."""
        return self.weight if branch else self.updated_weight(), None

    def adapted_weight(self) -> Tensor:
        return self.updated_weight()

    def weight_change(self) -> Tensor:
        """s B A, [o, i]."""
        a, b = self.of_parts(self.lora_A), self.of_parts(self.lora_B)
        return torch.bmm(b * self.scales, a).flatten(0, 1)

    def uses_side_branch(self, tokens: int) -> bool:
        """T r (p i + o) multiply-adds of two thin products against r i o of B A, going forward."""
        thin = len(self.parts) * self.in_features + self.out_features
        return tokens * thin < self.in_features * self.out_features
