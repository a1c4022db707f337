"""Low-Rank Adaptation of a linear layer (LoRA, Hu et al. 2021, arXiv 2106.09685)."""

from torch import Tensor

from adapters.layer import AdaptedLinear


class LoraLinear(AdaptedLinear):
    """y = x (W + s B A)ᵀ + b, with A [r, i] and B [o, r] trained, and W [o, i] and b [o] frozen.

    s = alpha / r. With B zero at first, the layer equals the base layer exactly before training.
    """

    def adapted_weight(self) -> Tensor:
        """W + s B A, [o, i]."""
        return self.updated_weight()
