"""Adapted layers on a GPU, with backward passes of few kernels, batched over the parts of a layer.

`adapters.product` treats the parts one by one, which suits a CPU. Here all have the same scale.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

from minbert.kernels.activations import activate, gradient


class LoraProduct(torch.autograd.Function):
    """y = x Vᵀ + b with V = W + s B A, where x is u, or an activation of it.

    In backward, with G the gradient of y and for each of the p parts its own rows of G and B:
    P = s G B, dA = Pᵀ x, dB = s Gᵀ (x Aᵀ), and dx = G V. The gradient of V, a product as large as
    the forward pass, is not formed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,  # [..., i]
        lora_A: Tensor,  # [p, r, i]  # noqa: N803
        lora_B: Tensor,  # [p, o / p, r]  # noqa: N803
        merged: Tensor,  # V, [o, i], a constant here
        bias: Tensor | None,  # [o]
        scale: float,
        activation: str | None,  # computed again in backward
    ) -> Tensor:
        """The product in the type of its arguments, [..., o]."""
        x = u if activation is None else activate(activation, u)
        ctx.scale, ctx.activation = scale, activation
        ctx.save_for_backward(u, lora_A, lora_B, merged if ctx.needs_input_grad[0] else None)
        return F.linear(x, merged, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of u, A and B; None for all else."""
        (gradient_of_y,) = gradients
        u, lora_a, lora_b, merged = ctx.saved_tensors
        needs_u, needs_a, needs_b = ctx.needs_input_grad[:3]
        parts, rank, width = lora_a.shape
        g = gradient_of_y.reshape(-1, gradient_of_y.shape[-1])  # [T, o]
        by_part = g.view(len(g), parts, -1).transpose(0, 1)  # [p, T, o / p]
        du = da = db = None
        if needs_a or needs_b:
            x = u if ctx.activation is None else activate(ctx.activation, u)
            flat = x.reshape(-1, width)  # [T, i]
        if needs_a:
            thin = scaled_product(by_part, lora_b, ctx.scale).transpose(0, 1)  # P, [T, p, r]
            da = (thin.reshape(len(g), -1).t() @ flat).view_as(lora_a)
        if needs_b:
            through = F.linear(flat, lora_a.view(-1, width)).view(-1, parts, rank)  # x Aᵀ
            db = scaled_product(by_part.mT, through.transpose(0, 1), ctx.scale)
        if needs_u:
            du = (g @ merged).view_as(u)
            du = du if ctx.activation is None else gradient(ctx.activation, du, u)
        return du, da, db, None, None, None, None


class DoraMerge(torch.autograd.Function):
    """M = c ⊙ V with V = W + s B A, c = m / n and n the row norms of V, constant.

    In backward, with G the gradient of M, dm = Σ G ⊙ M / m along a row, or 0 where m is 0,
    dA = s (c ⊙ B)ᵀ G and dB = s c ⊙ (G Aᵀ). M is kept, which the product after it keeps anyway.
    """

    @staticmethod
    def forward(
        ctx: Any,
        lora_A: Tensor,  # [p, r, i], in the type of M  # noqa: N803
        lora_B: Tensor,  # [p, o / p, r], in the type of M  # noqa: N803
        magnitude: Tensor,  # m, [o]
        updated: Tensor,  # V, [o, i], a constant here; its memory is used
        scale: float,
    ) -> Tensor:
        """M, [o, i]."""
        norms = torch.linalg.vector_norm(updated, dim=1)
        ratios = magnitude / norms.clamp_min(torch.finfo(norms.dtype).tiny)
        merged = updated.mul_(ratios[:, None]).to(lora_A.dtype)
        ctx.scale = scale
        ctx.save_for_backward(lora_A, lora_B, magnitude, ratios, merged)
        return merged

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of A, B and m; None for all else."""
        (g,) = gradients
        lora_a, lora_b, magnitude, ratios, merged = ctx.saved_tensors
        needs_a, needs_b, needs_m = ctx.needs_input_grad[:3]
        da = db = dm = None
        by_part = g.view(len(lora_a), -1, g.shape[1])  # [p, o / p, i]
        factor = ratios.to(g.dtype).view(len(lora_a), -1, 1)
        if needs_a:
            da = scaled_product((factor * lora_b).mT, by_part, ctx.scale)
        if needs_b:
            db = scaled_product(by_part, lora_a.mT, ctx.scale).mul_(factor)
        if needs_m:
            along = (g * merged).sum(dim=1, dtype=magnitude.dtype)  # 0 where m is 0
            dm = along / (magnitude + torch.finfo(magnitude.dtype).tiny)
        return da, db, dm, None, None


def scaled_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """s a b for batches of matrices, by one kernel."""
    like = a.new_empty(()).expand(len(a), a.shape[1], b.shape[2])
    return torch.baddbmm(like, a, b, beta=0, alpha=scale)
