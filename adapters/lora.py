"""Low-Rank Adaptation of a linear layer (LoRA, Hu et al. 2021, arXiv 2106.09685)."""

from adapters.layer import AdaptedLinear, Decomposed


class LoraLinear(AdaptedLinear):
    """y = x (W + s B A)ᵀ + b, with A [r, i] and B [o, r] trained, and W [o, i] and b [o] frozen.

    s = alpha / r. With B zero at first, the layer equals the base layer exactly before training.
    """

    def decomposed(self) -> Decomposed:
        """V = W + s B A."""
        return Decomposed(self.updated_weight())
