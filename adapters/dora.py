"""Weight-Decomposed Low-Rank Adaptation of a linear layer (DoRA, arXiv 2402.09353)."""

from collections.abc import Sequence
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from adapters.layer import Part
from adapters.low_rank import LowRankLinear
from adapters.methods import METHODS, Method
from minbert.kernels.products import times
from minbert.kernels.reference import has_values

_CANCELLED: Final = 0.1  # n² / |w|² below which a row's norm is not taken from the factored sum


class DoraLinear(LowRankLinear):
    """y = x (c ⊙ V)ᵀ + b, with V = W + s B A [o, i], c = m / n [o] and n the row norms of V.

    The magnitude m, one for each output row, trains with A and B. The norm n follows the
    updates but gets no gradient (section 4.3 of the paper). The bias is not scaled. m starts as
    the norms of W, and n is exactly that while B is zero, so c is 1 and the layer equals the base
    layer before training.

    A row of V that is all zero stays zero: its n is taken as the smallest normal number. The output
    of a row whose magnitude is exactly 0 is the bias; on a CPU that magnitude gets no gradient.
    Rows of a part without an adapter have no magnitude, and c is 1 there.

    Attributes:
        magnitude: m of the q parts with an adapter, of all p, [q o / p].
        scaled: true for rows with an adapter, [o]; not in the state dict.
    """

    method: ClassVar[Method] = METHODS["dora"]

    def __init__(self, linear: nn.Linear, parts: Sequence[Part]) -> None:
        super().__init__(linear, parts)
        scaled = self._of_rows(torch.ones_like(self.lora_B[:, :, 0], dtype=torch.bool).flatten())
        self.register_buffer("scaled", scaled, persistent=False)
        self.scaled: Tensor
        self.magnitude = nn.Parameter(torch.empty_like(self.lora_B[:, :, 0]).flatten())
        self.reset_magnitude()

    def weight_and_ratios(self, branch: bool) -> tuple[Tensor, Tensor]:
        """W or c ⊙ V [o, i], and c [o]."""
        if branch:
            return self.weight, self.magnitude_over_norm(self.factored_norms())
        weight = self.updated_weight()  # V
        ratios = self.magnitude_over_norm(self.row_norms(weight))
        return weight.mul_(ratios[:, None]), ratios  # V is this pass's own, so in place

    @property
    def row_magnitude(self) -> Tensor:
        return self._of_rows(self.magnitude)

    def update(self, x: Tensor, index: int) -> Tensor:
        """(c − 1) ⊙ (x Wᵀ) + c ⊙ (s (x Aᵀ) Bᵀ) of a part, [..., o / p], for a dropped input.

        PEFT defines dropout so: y = x Wᵀ + b + this, with c as without dropout.
        """
        row, weight = self.row(index), self.weight.chunk(len(self.parts))[index]
        magnitude = self.magnitude.chunk(len(self.lora_A))[row]
        with torch.no_grad():
            a, b = self.lora_A[row], self.lora_B[row] * self.scales[index]
            norms = self.row_norms(torch.addmm(weight.to(a.dtype), b, a))
        ratios = magnitude / norms.clamp_min(torch.finfo(norms.dtype).tiny)  # [o / p]
        return (ratios - 1) * F.linear(x, weight.to(x.dtype)) + ratios * super().update(x, index)

    def adapted_weight(self) -> Tensor:
        updated = self.updated_weight()
        return self.magnitude_over_norm(self.row_norms(updated))[:, None] * updated

    def reset_parameters(self, seed: int) -> None:
        super().reset_parameters(seed)
        self.reset_magnitude()

    @torch.no_grad()
    def reset_magnitude(self) -> None:
        """Set m to the row norms of the current weight, so that c is 1."""
        norms = self.row_norms(self.updated_weight()).view(len(self.parts), -1)
        self.magnitude.copy_(norms[self.adapted].flatten())

    def magnitude_over_norm(self, norms: Tensor) -> Tensor:
        """c = m / n, [o]; 1 in rows of a part without an adapter."""
        ratios = self.row_magnitude / norms.clamp_min(torch.finfo(norms.dtype).tiny)
        return ratios if all(part.rank for part in self.parts) else ratios.where(self.scaled, 1.0)

    def _of_rows(self, values: Tensor) -> Tensor:
        """Values of the rows with an adapter [q o / p] as those of all rows [o], zero in others."""
        return self.of_parts(values.view(len(self.lora_A), -1)).flatten()

    def uses_side_branch(self, tokens: int) -> bool:
        """T r (p i + o) multiply-adds of two thin products against i o of norms and scaling, going
        forward. W Aᵀ for the norms costs as much as B A. In compiled code the update is always
        merged: the norms of a branch depend on values."""
        thin = len(self.parts) * self.in_features + self.out_features
        few = tokens * self.lora_A.shape[1] * thin < self.in_features * self.out_features
        return few and not torch.compiler.is_compiling()

    @torch.no_grad()
    def factored_norms(self) -> Tensor:
        """n, [o], without V: n² = |w|² + 2 s Σ B ⊙ (W Aᵀ) + s² Σ (B A Aᵀ) ⊙ B (arXiv 2603.22276).
        Rows in which W and the update nearly cancel are computed in full: the sum has few digits
        there."""
        a, b = self.of_parts(self.lora_A), self.of_parts(self.lora_B) * self.scales
        stacked = self.weight.to(a.dtype).view(len(self.parts), -1, self.in_features)
        base = torch.linalg.vector_norm(stacked, dim=2)  # [p, o / p]
        through = torch.stack([times(w, factor) for w, factor in zip(stacked, a, strict=True)])
        change = ((2 * through + b @ (a @ a.mT)) * b).sum(dim=2)  # n² − |w|²
        share = 1 + change / base.square()
        norms = base * share.clamp_min(0).sqrt()  # exactly |w| where B is 0, as m is at first
        lost = (base == 0) | ~(share >= _CANCELLED)
        if has_values(lost) and lost.any():
            part, row = lost.nonzero(as_tuple=True)
            rows = stacked[part, row] + (b[part, row].unsqueeze(1) @ a[part]).squeeze(1)
            norms[part, row] = torch.linalg.vector_norm(rows, dim=1)
        return norms.flatten()

    @staticmethod
    def row_norms(weight: Tensor) -> Tensor:
        """Norms [o] of the rows of a weight [o, i], without a gradient."""
        return torch.linalg.vector_norm(weight.detach(), dim=1)

    def part_tensors(self, index: int) -> dict[str, Tensor]:
        """A, B and the magnitude [o / p] of a part."""
        magnitude = self.magnitude.detach().chunk(len(self.lora_A))[self.row(index)]
        return super().part_tensors(index) | {"magnitude": magnitude}
