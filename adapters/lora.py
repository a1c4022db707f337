"""Low-Rank Adaptation of a linear layer (LoRA, Hu et al. 2021, arXiv 2106.09685)."""

from typing import ClassVar

import torch
from torch import Tensor

from adapters.low_rank import LowRankLinear
from adapters.methods import METHODS, Method
from adapters.on_gpu import LoraProduct
from minbert.kernels.activations import activate
from minbert.kernels.casts import cast
from minbert.kernels.precision import product_dtype
from minbert.kernels.reference import is_eager_on_gpu, is_reference


class LoraLinear(LowRankLinear):
    """y = x (W + s B A)ᵀ + b, with A [r, i] and B [o, r] trained, and W [o, i] and b [o] frozen.

    s = alpha / r, or alpha / √r with rsLoRA. Dropout, in training, is on the input of A alone.
    With B zero at first, the layer equals the base layer exactly before training.
    """

    method: ClassVar[Method] = METHODS["lora"]

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """Map x [..., i], or an activation of it, to y [..., o]."""
        on_gpu = is_eager_on_gpu(x)
        if self.drops or is_reference() or (on_gpu and self.scale is None):
            return super().forward(x, activation)
        dtype = product_dtype(x)
        if on_gpu and self.scale is not None:
            return self._product_on_gpu(x, activation, dtype, self.scale)
        branch = self.branches_off(x, dtype)
        with torch.autocast(x.device.type, enabled=False):
            with torch.no_grad():  # the product has a backward pass of its own
                weight = self.weight if branch else self.updated_weight()  # [o, i]
            return self.product(x, activation, weight, dtype, branch=branch)

    def _product_on_gpu(
        self, x: Tensor, activation: str | None, dtype: torch.dtype, scale: float
    ) -> Tensor:
        if activation is not None and torch.finfo(dtype).bits >= 32:
            x, activation = activate(activation, x), None  # kept: fewer bytes are moved
        with torch.autocast(x.device.type, enabled=False):
            tensors = (cast(self.lora_A), cast(self.lora_B), self.merged_weight(scale))
            lora_a, lora_b, merged = (tensor.to(dtype) for tensor in tensors)
            bias = None if self.bias is None else cast(self.bias).to(dtype)
            y: Tensor = LoraProduct.apply(
                x.to(dtype), lora_a, lora_b, merged, bias, scale, activation
            )  # type: ignore[no-untyped-call]
            return y

    def adapted_weight(self) -> Tensor:
        """W + s B A, [o, i]."""
        return self.updated_weight()

    def weight_change(self) -> Tensor:
        """s B A, [o, i]."""
        a, b = self.of_parts(self.lora_A), self.of_parts(self.lora_B)
        return torch.bmm(b * self.scales, a).flatten(0, 1)

    def uses_side_branch(self, tokens: int) -> bool:
        """T r (p i + o) multiply-adds of two thin products against r i o of B A, going forward."""
        thin = len(self.parts) * self.in_features + self.out_features
        return tokens * thin < self.in_features * self.out_features
