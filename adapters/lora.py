"""Low-Rank Adaptation of a linear layer (LoRA, Hu et al. 2021, arXiv 2106.09685)."""

from typing import ClassVar

import torch
from torch import Tensor

from adapters.layer import AdaptedLinear
from adapters.low_rank import LowRankLinear
from adapters.methods import METHODS, Method
from adapters.product import BUSY, ThinProduct
from minbert.kernels.linear import activate
from minbert.kernels.reference import is_eager_on_gpu, is_reference, product_dtype


class LoraLinear(LowRankLinear):
    """y = x (W + s B A)ᵀ + b, with A [r, i] and B [o, r] trained, and W [o, i] and b [o] frozen.

    s = alpha / r, or alpha / √r with rsLoRA. Dropout, in training, is on the input of A alone.
    With B zero at first, the layer equals the base layer exactly before training.
    """

    method: ClassVar[Method] = METHODS["lora"]

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """Map x [..., i], or an activation of it, to y [..., o]."""
        if self.drops or is_reference():
            return super().forward(x, activation)
        if is_eager_on_gpu(x):
            if x.numel() * self.out_features < BUSY or not self._is_exact(x):
                return AdaptedLinear.forward(self, x, activation)
            x = x if activation is None else activate(activation, x)
            y: Tensor = ThinProduct.apply(
                x, self.lora_A, self.lora_B, self.weight, self.bias, self.scale
            )  # type: ignore[no-untyped-call]
            return y
        dtype = product_dtype(x)
        branch = self.branches_off(x, dtype)
        with torch.autocast(x.device.type, enabled=False):
            with torch.no_grad():  # the product has a backward pass of its own
                weight = self.weight if branch else self.updated_weight()  # [o, i]
            return self.product(x, activation, weight, dtype, branch=branch)

    def _is_exact(self, x: Tensor) -> bool:
        """Whether the product with x is in fp32, of weights in fp32, with one scale of all parts.

        In half precision a GPU multiplies so fast that thin products gain nothing.
        """
        dtypes = {product_dtype(x), x.dtype, self.weight.dtype}
        return self.scale is not None and dtypes == {torch.float32}

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
