"""Low-Rank Adaptation of a linear layer (LoRA, Hu et al. 2021, arXiv 2106.09685)."""

from adapters.layer import AdaptedLinear, Decomposed


class LoraLinear(AdaptedLinear):
    """y = x (W + s B A)ᵀ + b, with A [r, i] and B [o, r] trained, and W [o, i] and b [o] frozen.

    s = alpha / r. With B zero at first, the layer equals the base layer exactly before training.
    """

    def decomposed(self, *, branch: bool = False) -> Decomposed:
        """V = W + s B A, or as a branch W."""
        return Decomposed(self.weight if branch else self.updated_weight())

    def uses_side_branch(self, tokens: int) -> bool:
        """T r (p i + o) multiply-adds of two thin products against r i o of B A, going forward."""
        thin = len(self.parts) * self.in_features + self.out_features
        return tokens * thin < self.in_features * self.out_features
