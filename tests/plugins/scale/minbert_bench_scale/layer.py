"""One trained factor for each output of a linear layer, as in (IA)³ (arXiv 2205.05638)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from adapters.layer import AdaptedLinear, Part
from adapters.methods import Method
from minbert_bench_scale import METHOD


class ScaledLinear(AdaptedLinear):
    """y = x (f ⊙ W)ᵀ + b, with factors f [o] trained, and W [o, i] and b [o] frozen."""

    method: ClassVar[Method] = METHOD

    def __init__(self, linear: nn.Linear, parts: Sequence[Part]) -> None:
        super().__init__(linear, parts)
        self.factors = nn.Parameter(torch.ones(self.out_features, device=self.weight.device))

    def adapted_weight(self) -> Tensor:
        return self.factors[:, None] * self.weight  # [o, i]

    @torch.no_grad()
    def reset_parameters(self, seed: int) -> None:
        self.factors.fill_(1.0)

    def part_tensors(self, index: int) -> dict[str, Tensor]:
        return {"factors": self.factors.detach().chunk(len(self.parts))[index]}
