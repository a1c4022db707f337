"""Low-Rank Adaptation of a linear layer (LoRA, Hu et al. 2021, arXiv 2106.09685)."""

from typing import ClassVar, Final

import torch
from torch import Tensor

from adapters.low_rank import LowRankLinear
from adapters.methods import METHODS, Method
from minbert.kernels.reference import product_dtype

BUSY: Final = 2**29
"""Multiply-adds of a product in fp32 that keep a GPU busy: 16 µs of an H100 at its 67 TFLOP/s,
about what a layer's branch takes of the host's time."""


class LoraLinear(LowRankLinear):
    """y = x (W + s B A)ᵀ + b, with A [r, i] and B [o, r] trained, W [o, i] and b [o] frozen, and s
    = alpha / r, or alpha / √r with rsLoRA. Dropout, in training, is on the input of A alone. With B
    zero at first, the layer equals the base layer exactly before training."""

    method: ClassVar[Method] = METHODS["lora"]

    def forward_on_gpu(self, x: Tensor, activation: str | None) -> Tensor:
        # plain autograd forms the gradient of a merged weight, a product as large as the forward
        # pass; in half precision a GPU multiplies so fast that a branch gains nothing
        is_exact = {product_dtype(x), x.dtype, self.weight.dtype} == {torch.float32}
        if x.numel() * self.out_features < BUSY or not is_exact:
            return super().forward_on_gpu(x, activation)
        return self._forward_as_branch(x, activation)

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
