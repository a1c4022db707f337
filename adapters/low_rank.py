"""The base of LoRA and DoRA: a frozen weight's low-rank update, and its product with an input."""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from adapters.layer import AdaptedLinear, Part
from adapters.product import AdaptedProduct
from minbert.kernels.dropout import dropout
from minbert.kernels.linear import activate
from minbert.kernels.reference import is_eager_on_gpu, is_reference, product_dtype


def draw_factor(a: Tensor, seed: int, name: str) -> None:
    """Initialise a factor A [r, i] of a layer as PEFT does, Kaiming-uniform with a = √5, so within
    ±1/√i; B begins at zero."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)


class LowRankLinear(AdaptedLinear):
    """A frozen weight W [o, i] with an update s B A of factors A [r, i] and B [o, r].

    The factors of the q parts that have an adapter, of all p, are stacked. Parts of lower rank are
    padded with zeros in A and in B. The gradient of each factor is a product with the other, so the
    padding stays zero through any number of AdamW steps, and has no effect on training.

    W + s B A is computed in every forward pass, in fp32 or better with autocast off, and not
    cached. A and B are in fp32 or better, whatever the type of W.

    With dropout, training computes the update as a side branch on a dropped input, under autograd:
    it can't be merged with the weight. Evaluation is the same with and without.

    Attributes:
        dropout: probability of dropout on the input of A.
        lora_A: [q, r, i], with r the highest rank of a part; zero until `reset_parameters` or a
        load.
        lora_B: [q, o / p, r], zero at first.
        adapted: indices of the parts with an adapter, [q]; not in the state dict.
        scales: [p, 1, 1], the factor s of each part; not in the state dict.
        scale: s, if it is that of all parts; else None.
    """

    dropout: float = 0.0

    def __init__(self, linear: nn.Linear, parts: Sequence[Part]) -> None:
        super().__init__(linear, parts)
        rank = max(part.rank for part in self.parts)
        height = self.out_features // len(self.parts)
        indices = [index for index, part in enumerate(self.parts) if part.rank]
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        like = torch.empty(0, dtype=dtype, device=self.weight.device)
        self.lora_A = nn.Parameter(like.new_zeros(len(indices), rank, self.in_features))
        self.lora_B = nn.Parameter(like.new_zeros(len(indices), height, rank))
        adapted = torch.tensor(indices, device=like.device)
        self.register_buffer("adapted", adapted, persistent=False)
        self.adapted: Tensor
        scales = like.new_tensor([part.scale for part in self.parts])
        self.register_buffer("scales", scales.view(-1, 1, 1), persistent=False)
        self.scales: Tensor
        factors = {part.scale for part in self.parts}
        self.scale = factors.pop() if len(factors) == 1 else None

    @torch.no_grad()
    def reset_parameters(self, seed: int) -> None:
        self.lora_B.zero_()
        for row, part in enumerate(part for part in self.parts if part.rank):
            values = torch.empty(part.rank, self.in_features)
            draw_factor(values, seed, part.name)
            self.lora_A[row, : part.rank] = values.to(self.lora_A)

    def of_parts(self, stacked: Tensor) -> Tensor:
        """A tensor [q, …] of the parts with an adapter as one of all parts [p, …], else zero."""
        if len(stacked) == len(self.parts):
            return stacked
        zeros = stacked.new_zeros(len(self.parts), *stacked.shape[1:])
        return zeros.index_copy(0, self.adapted, stacked)

    @property
    def trains_b_alone(self) -> bool:
        """Whether A keeps its first values (LoRA-FA, Zhang et al. 2023, arXiv 2308.03303), so that
        the backward pass needs x Aᵀ and not x."""
        return self.lora_B.requires_grad and not self.lora_A.requires_grad

    def row(self, index: int) -> int:
        """The index of a part among those with an adapter."""
        return sum(part.rank > 0 for part in self.parts[:index])

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        """Map x [..., i], or an activation of it, to y [..., o]. In half precision the update is
        always merged with the weight: rounding would lose the small results of a side branch."""
        if self.training and (self.dropout > 0 or (self.trains_b_alone and is_eager_on_gpu(x))):
            return self._forward_as_branch(x, activation)
        if is_reference():
            return super().forward(x, activation)
        if is_eager_on_gpu(x):
            return self.forward_on_gpu(x, activation)
        dtype, tokens = product_dtype(x), x.numel() // self.in_features
        branch = torch.finfo(dtype).bits >= 32 and self.uses_side_branch(tokens)
        with torch.autocast(x.device.type, enabled=False):
            with torch.no_grad():  # the product has a backward pass of its own
                weight, ratios = self.weight_and_ratios(branch)
            return AdaptedProduct.apply(
                x, self.of_parts(self.lora_A), self.of_parts(self.lora_B), self.row_magnitude,
                weight, ratios, self.bias, self.scales, dtype, activation, branch,
            )  # type: ignore[no-untyped-call]  # fmt: skip

    def forward_on_gpu(self, x: Tensor, activation: str | None) -> Tensor:
        return super().forward(x, activation)

    def _forward_as_branch(self, x: Tensor, activation: str | None) -> Tensor:
        """x Wᵀ + b + `update`; each part drops elements of x by itself, as separate layers do."""
        x = x if activation is None else activate(activation, x)
        dtype = product_dtype(x)
        with torch.autocast(x.device.type, enabled=False):
            x, weight = x.to(dtype), self.weight.to(dtype)
            bias = None if self.bias is None else self.bias.to(dtype)
            y = list(F.linear(x, weight, bias).chunk(len(self.parts), dim=-1))
            for index, part in enumerate(self.parts):
                if part.rank:
                    dropped = dropout(x, self.dropout, self.training)
                    y[index] = (y[index] + self.update(dropped, index)).to(dtype)
            return torch.cat(y, dim=-1)

    def update(self, x: Tensor, index: int) -> Tensor:
        """s (x Aᵀ) Bᵀ of a part, [..., o / p], for a dropped input x [..., i]."""
        row = self.row(index)
        b = (self.lora_B[row] * self.scales[index]).to(x.dtype)
        return F.linear(F.linear(x, self.lora_A[row].to(x.dtype)), b)

    def updated_weight(self) -> Tensor:
        """W + s B A, [o, i], in the type of A and B. For use with autocast off."""
        stacked = self.weight.to(self.lora_A.dtype).view(len(self.parts), -1, self.in_features)
        a, b = self.of_parts(self.lora_A), self.of_parts(self.lora_B)
        return torch.baddbmm(stacked, b * self.scales, a).flatten(0, 1)

    @abstractmethod
    def uses_side_branch(self, tokens: int) -> bool:
        """Whether a side branch needs fewer operations than a merge, for a number of tokens."""

    @abstractmethod
    def weight_and_ratios(self, branch: bool) -> tuple[Tensor, Tensor | None]:
        """The weight [o, i] that `AdaptedProduct` multiplies by, and its ratios c, if any."""

    @property
    def row_magnitude(self) -> Tensor | None:
        """The magnitude m that `AdaptedProduct` gives a gradient, [o], if the method has one."""
        return None

    def part_tensors(self, index: int) -> dict[str, Tensor]:
        """A [r, i] and B [o / p, r] of a part, without padding."""
        row, rank = self.row(index), self.parts[index].rank
        a, b = self.lora_A.detach()[row, :rank], self.lora_B.detach()[row, :, :rank]
        return {"lora_A": a, "lora_B": b}
