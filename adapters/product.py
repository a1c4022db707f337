"""The product of an adapted layer in merged form, with a backward pass written by hand.

Plain autograd would form the gradient of the whole merged weight, a product as large as the forward
pass, only to reduce it to the gradients of thin factors. Here those come from thin products, and
what is kept for the backward pass is the input, the merged weight in the type of the product, and
for DoRA the output.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812


class MergedProduct(torch.autograd.Function):
    """y = x (c ⊙ V)ᵀ + b with V = W + s B A, c = m / n or 1, and n the row norms of V, constant.

    In backward, with G the gradient of y, and for each of the p parts its own rows of G, B and c:
    P = s G (c ⊙ B), dx = G (c ⊙ V), dA = Pᵀ x, dB = s c ⊙ (Gᵀ (x Aᵀ)), and dm = Σ G ⊙ (y − b) / m
    over tokens. Where m is 0 that is Σ (Gᵀ x) ⊙ V / n.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [..., i]
        lora_A: Tensor,  # [p, r, i]  # noqa: N803
        lora_B: Tensor,  # [p, o / p, r]  # noqa: N803
        magnitude: Tensor | None,  # [o]
        updated: Tensor,  # V, [o, i], a constant here
        ratios: Tensor | None,  # c, [o]
        norms: Tensor | None,  # n, [o]
        scaled: Tensor | None,  # where c comes from m, [o]; None: everywhere
        bias: Tensor | None,  # [o]
        scales: Tensor,  # [p, 1, 1]
        dtype: torch.dtype,
        zeros: bool,  # whether a magnitude may be 0
    ) -> Tensor:
        """The product in `dtype`, [..., o]."""
        weight = updated if ratios is None else ratios.unsqueeze(1) * updated
        weight, x = weight.to(dtype), x.to(dtype)
        bias = None if bias is None else bias.to(dtype)
        y = F.linear(x, weight, bias)
        kept_y = y if magnitude is not None else None
        kept_v = updated if zeros else None
        ctx.save_for_backward(
            x,
            lora_A,
            lora_B,
            magnitude,
            weight,
            ratios,
            norms,
            scaled,
            bias,
            scales,
            kept_y,
            kept_v,
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, A, B and m; of nothing else."""
        (gradient,) = gradients
        with torch.autocast(gradient.device.type, enabled=False):
            return *_backward(ctx, gradient), *[None] * 8


def _backward(
    ctx: Any, gradient: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    x, lora_a, lora_b, magnitude, weight, ratios, norms, scaled, bias, scales, y, v = (
        ctx.saved_tensors
    )
    wants_x, wants_a, wants_b, wants_m = ctx.needs_input_grad[:4]
    parts, rank, width = lora_a.shape
    dtype = weight.dtype
    g = gradient.reshape(-1, weight.shape[0])  # [T, o]
    flat = x.reshape(-1, width)  # [T, i]
    by_part = g.view(len(g), parts, -1).transpose(0, 1)  # [p, T, o / p]
    factor = scales if ratios is None else scales * ratios.view(parts, -1, 1)  # [p, o / p or 1, 1]
    dx = da = db = dm = None
    if wants_x:
        dx = (g @ weight).view_as(x)
    if wants_a:
        thin = torch.bmm(by_part, (factor * lora_b).to(dtype))  # P, [p, T, r]
        thin = thin.transpose(0, 1).reshape(len(g), -1)  # [T, p r]
        da = (thin.t() @ flat).to(lora_a.dtype).view(parts, rank, width)
    if wants_b:
        through = flat @ lora_a.reshape(-1, width).to(dtype).t()  # x Aᵀ, [T, p r]
        through = through.view(len(g), parts, rank).transpose(0, 1)  # [p, T, r]
        db = factor * torch.bmm(by_part.transpose(1, 2), through).to(lora_b.dtype)
    if wants_m:
        dm = _of_magnitude(g, flat, y.reshape_as(g), magnitude, norms, bias, v)
        dm = dm if scaled is None else torch.where(scaled, dm, 0.0)
    return dx, da, db, dm


def _of_magnitude(
    g: Tensor,
    x: Tensor,
    y: Tensor,
    magnitude: Tensor,
    norms: Tensor,
    bias: Tensor | None,
    updated: Tensor | None,
) -> Tensor:
    """dm, [o], as if c came from m everywhere."""
    along = (g * y).sum(dim=0, dtype=magnitude.dtype)
    if bias is not None:
        along = along - bias.to(magnitude.dtype) * g.sum(dim=0, dtype=magnitude.dtype)
    found = torch.where(magnitude == 0, 0.0, along / magnitude)
    if updated is not None:
        rows = (magnitude == 0).nonzero().squeeze(1)
        exact = ((g[:, rows].t() @ x).to(updated.dtype) * updated[rows]).sum(dim=1) / norms[rows]
        found = found.index_copy(0, rows, exact)
    return found


def has_zero(magnitude: Tensor) -> bool:
    """Whether a magnitude is 0.

    Not asked on a card, where it would wait for the answer, nor of a tensor without values, by
    which a step is counted and not taken.
    """
    values = magnitude.detach()
    return type(values) is Tensor and not values.is_cuda and bool((values == 0).any())
