"""Weight-Decomposed Low-Rank Adaptation of a linear layer (DoRA, Liu et al. 2024,
arXiv 2402.09353)."""

from collections.abc import Sequence
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from adapters.layer import AdaptedLinear, Decomposed, Part
from minbert.kernels.precision import has_values, on_cpu
from minbert.kernels.products import times

_CANCELLED: Final = 0.1
"""n² / |w|² below which a row's norm is not taken from the factored sum."""


class DoraLinear(AdaptedLinear):
    """y = x (c ⊙ V)ᵀ + b, with V = W + s B A [o, i], c = m / n [o] and n the row norms of V.

    The magnitude m [o], one for each output row, trains beside A and B. The norm n follows the
    updates but gets no gradient (section 4.3 of the paper). The bias is not scaled. m starts as
    the norms of W, and n is exactly that while B is zero, so c is 1 and the layer equals the base
    layer before training.

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

    def decomposed(self, *, branch: bool = False) -> Decomposed:
        """V = W + s B A or W, the row norms n of V, and c = m / n; c is 1 without an adapter."""
        weight = self.weight if branch else self.updated_weight()
        norms = self.factored_norms() if branch else self._norms(weight)
        norms = norms.clamp_min(torch.finfo(norms.dtype).tiny)
        ratios = self.magnitude.detach() / norms
        scaled = None if all(part.rank for part in self.parts) else self.scaled
        if scaled is not None:
            ratios = torch.where(scaled, ratios, 1.0)
        return Decomposed(weight, ratios, norms, self.magnitude, scaled)

    def uses_side_branch(self, tokens: int) -> bool:
        """T r (p i + o) multiply-adds of two thin products against i o of norms and scaling.

        As in LoRA it is the forward pass that is counted. W Aᵀ for the norms is as much as B A. On
        a GPU, and compiled, it is always merged: the norms of a branch have to ask for values.
        """
        thin = len(self.parts) * self.in_features + self.out_features
        few = tokens * self.lora_A.shape[1] * thin < self.in_features * self.out_features
        return few and on_cpu(self.weight) and not torch.compiler.is_compiling()

    @torch.no_grad()
    def factored_norms(self) -> Tensor:
        """n, [o], without V: n² = |w|² + 2 s Σ B ⊙ (W Aᵀ) + s² Σ (B A Aᵀ) ⊙ B (arXiv 2603.22276).

        Rows that W and the update nearly cancel in are formed, since the sum has few digits there.
        """
        a, b = self.lora_A, self.lora_B * self.scales
        stacked = self.weight.to(a.dtype).view(len(self.parts), -1, self.in_features)
        base = torch.linalg.vector_norm(stacked, dim=2)  # [p, o / p]
        through = torch.stack([times(w, of_part) for w, of_part in zip(stacked, a, strict=True)])
        change = ((2 * through + b @ (a @ a.mT)) * b).sum(dim=2)  # n² − |w|²
        share = 1 + change / base.square()
        norms = base * share.clamp_min(0).sqrt()  # exactly |w| where B is 0, as m is at first
        lost = (base == 0) | ~(share >= _CANCELLED)
        if has_values(lost) and lost.any():
            part, row = lost.nonzero(as_tuple=True)
            rows = stacked[part, row] + (b[part, row].unsqueeze(1) @ a[part]).squeeze(1)
            norms[part, row] = torch.linalg.vector_norm(rows, dim=1)
        flat: Tensor = norms.flatten()
        return flat

    @staticmethod
    def _norms(weight: Tensor) -> Tensor:
        """Norms [o] of the rows of a weight [o, i], as constants."""
        norms: Tensor = torch.linalg.vector_norm(weight.detach(), dim=1)
        return norms
