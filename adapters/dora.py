"""Weight-Decomposed Low-Rank Adaptation of a linear layer (DoRA, Liu et al. 2024,
arXiv 2402.09353)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from adapters.layer import AdaptedLinear, Decomposed, Part


class DoraLinear(AdaptedLinear):
    """y = x (c ⊙ V)ᵀ + b, with V = W + s B A [o, i], c = m / n [o] and n the row norms of V.

    The magnitude m [o], one for each output row, trains beside A and B. The norm n follows the
    updates but gets no gradient (section 4.3 of the paper). The bias is not scaled. m starts as
    n, from the same lines of code, so c is exactly 1 and the layer equals the base layer before
    training.

    A row of V that is all zero stays so, its n taken as the smallest normal number; a magnitude
    that reaches 0 leaves its row at the bias and, on a CPU, still gets a gradient. Rows of a part
    without an adapter are not scaled, and their magnitude gets a gradient of zero.

    Attributes:
        magnitude: m, [o].
    """

    adapter_names: ClassVar[tuple[str, ...]] = ("lora_A", "lora_B", "magnitude")

    def __init__(self, linear: nn.Linear, parts: Sequence[Part]) -> None:
        super().__init__(linear, parts)
        height = self.out_features // len(self.parts)
        scaled = torch.tensor([part.rank > 0 for part in self.parts], device=self.weight.device)
        self.register_buffer("scaled", scaled.repeat_interleave(height), persistent=False)
        self.scaled: Tensor
        self.magnitude = nn.Parameter(torch.empty_like(self.lora_B[:, :, 0]).flatten())
        self.reset_magnitude()

    @torch.no_grad()
    def reset_magnitude(self) -> None:
        """Set m to the row norms of the weight as it is, so that c is 1."""
        self.magnitude.copy_(self._norms(self.updated_weight()))

    def decomposed(self) -> Decomposed:
        """V = W + s B A, its row norms n, and c = m / n; c is 1 where there is no adapter."""
        updated = self.updated_weight()
        norms = self._norms(updated).clamp_min(torch.finfo(updated.dtype).tiny)
        ratios = self.magnitude.detach() / norms
        scaled = None if all(part.rank for part in self.parts) else self.scaled
        if scaled is not None:
            ratios = torch.where(scaled, ratios, 1.0)
        return Decomposed(updated, ratios, norms, self.magnitude, scaled)

    @staticmethod
    def _norms(weight: Tensor) -> Tensor:
        """Norms [o] of the rows of a weight [o, i], as constants."""
        norms: Tensor = torch.linalg.vector_norm(weight.detach(), dim=1)
        return norms
