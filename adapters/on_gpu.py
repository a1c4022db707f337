"""The product of an adapted layer on a GPU, with a backward pass written by hand, in fp32.

It costs more of the host's time than torch's own operators, so it is for products that keep a GPU
busy. `adapters.product` treats the parts of a layer one by one, which suits a CPU; here all have
the same scale.
"""

from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

BUSY: Final = 2**29
"""Multiply-adds of a product in fp32 that keep a GPU busy: 16 µs of an H100 at its 67 TFLOP/s,
about what a layer's product here takes of the host's time beyond plain torch."""


class ThinProduct(torch.autograd.Function):
    """y = x Vᵀ + b with V = W + s B A, all of one type.

    In backward, with G the gradient of y and for each of the p parts its own rows of G and B:
    P = s G B, dA = Pᵀ x, dB = s Gᵀ (x Aᵀ), and dx = G V. The gradient of V, a product as large as
    the forward pass, is not formed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # [..., i]
        lora_A: Tensor,  # [p, r, i]  # noqa: N803
        lora_B: Tensor,  # [p, o / p, r]  # noqa: N803
        weight: Tensor,  # W, [o, i], frozen
        bias: Tensor | None,  # [o], frozen
        scale: float,
    ) -> Tensor:
        """y, [..., o]."""
        stacked = weight.view(len(lora_A), -1, weight.shape[1])
        merged = torch.baddbmm(stacked, lora_B, lora_A, alpha=scale).view(weight.shape)
        ctx.scale = scale
        ctx.save_for_backward(x, lora_A, lora_B, merged if ctx.needs_input_grad[0] else None)
        return F.linear(x, merged, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, A and B; None for all else."""
        (g,) = gradients
        x, lora_a, lora_b, merged = ctx.saved_tensors
        parts, rank, width = lora_a.shape
        flat, g2 = x.reshape(-1, width), g.reshape(-1, g.shape[-1])  # [T, i], [T, o]
        by_part = g2.view(len(g2), parts, -1).transpose(0, 1)  # [p, T, o / p]
        like = g.new_empty((1, 1, 1))
        thin = torch.baddbmm(like, by_part, lora_b, beta=0, alpha=ctx.scale)  # P, [p, T, r]
        da = (thin.transpose(0, 1).reshape(len(g2), -1).t() @ flat).view_as(lora_a)
        through = (flat @ lora_a.view(-1, width).t()).view(-1, parts, rank)  # x Aᵀ
        db = torch.baddbmm(like, by_part.mT, through.transpose(0, 1), beta=0, alpha=ctx.scale)
        dx = None if merged is None else (g2 @ merged).view_as(x)
        return dx, da, db, None, None, None
