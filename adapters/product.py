"""The product of an adapted layer, with a backward pass written by hand.

Plain autograd would compute the gradient of the whole adapted weight, a product as large as the
forward pass, only to reduce it to the gradients of thin factors. Here those come from thin
products. For the backward pass the input is kept, the weight in the type of the product, and for
DoRA the output, which the operation after the layer keeps anyway. Where A does not train (LoRA-FA),
x Aᵀ is kept in place of x; only the input of an activation is needed all the same.

The product has two forms. Merged, the update is added to the weight, and there is one product; that
is less work for many tokens. As a branch, two thin products are added to that of the frozen weight;
that is less work for few tokens. The layer chooses by their counts. In half precision it always
merges.
"""

from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

from minbert.kernels.linear import activate, gradient
from minbert.kernels.products import sum_over_tokens, thin_over_tokens, times

BUSY: Final = 2**29
"""Multiply-adds of a product in fp32 that keep a GPU busy: 16 µs of an H100 at its 67 TFLOP/s,
about what a layer's product here takes of the host's time beyond plain torch."""


class AdaptedProduct(torch.autograd.Function):
    """y = x (c ⊙ V)ᵀ + b with V = W + s B A, c = m / n or 1, and n the row norms of V, constant.

    x is u, or an activation of it. In backward, with G the gradient of y, and for each of the p
    parts its own rows of G, B and c: P = s G (c ⊙ B), dA = Pᵀ x, dB = s c ⊙ (Gᵀ (x Aᵀ)), and dm = Σ
    G ⊙ (y − b) / m over tokens, or 0 where m is 0. Merged, dx = G (c ⊙ V); as a branch,
    dx = (c ⊙ G) W + P A. y is in the type of the product: if |b| is much larger than |y − b|, half
    precision leaves few digits of dm.
    """

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,  # [..., i]
        lora_A: Tensor,  # [p, r, i]  # noqa: N803
        lora_B: Tensor,  # [p, o / p, r]  # noqa: N803
        magnitude: Tensor | None,  # [o]
        weight: Tensor,  # c ⊙ V, or as a branch W, [o, i], a constant here
        ratios: Tensor | None,  # c, [o]
        bias: Tensor | None,  # [o]
        scales: Tensor,  # [p, 1, 1]
        dtype: torch.dtype,
        activation: str | None,  # x is this activation of u
        branch: bool,
    ) -> Tensor:
        weight = weight.to(dtype)
        x = (u if activation is None else activate(activation, u)).to(dtype)
        bias = None if bias is None else bias.to(dtype)
        b_alone = ctx.needs_input_grad[2] and not ctx.needs_input_grad[1]
        through = _through(x, lora_A) if branch or b_alone else None
        y = times(x, weight, None if branch and ratios is not None else bias)
        if branch:  # c ⊙ (x Wᵀ + (x Aᵀ) (s B)ᵀ) + b
            stacked, parts, scaled_b = y.view(-1, y.shape[-1]), len(lora_A), lora_B * scales
            thin = stacked.chunk(parts, 1), through.chunk(parts, 1), scaled_b.to(dtype)  # type: ignore[union-attr]
            for of_part, of_x, b in zip(*thin, strict=True):
                of_part.addmm_(of_x, b.t())
            if ratios is not None:
                y.mul_(ratios)
                y = y if bias is None else y.add_(bias)
        ctx.activation, ctx.u_dtype, ctx.branch, ctx.shape = activation, u.dtype, branch, u.shape
        kept: Tensor | None = x if activation is None else u
        if b_alone:
            kept = None if activation is None or not ctx.needs_input_grad[0] else u
        output, through = None if magnitude is None else y, through if b_alone else None
        ctx.save_for_backward(
            kept, through, lora_A, lora_B, magnitude, weight, ratios, bias, scales, output
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of u, A, B and m; None for all else."""
        (g,) = gradients
        with torch.autocast(g.device.type, enabled=False):
            return *_backward(ctx, g), *[None] * 7


def _backward(ctx: Any, gradient_of_y: Tensor) -> tuple[Tensor | None, ...]:
    u, through, lora_a, lora_b, magnitude, weight, ratios, bias, scales, y = ctx.saved_tensors
    needs_u, needs_a, needs_b, needs_m = ctx.needs_input_grad[:4]
    parts, rank, width = lora_a.shape
    dtype = weight.dtype
    g = gradient_of_y.reshape(-1, weight.shape[0])  # [T, o]
    by_part = g.chunk(parts, dim=1)  # p of [T, o / p]
    factor = scales if ratios is None else scales * ratios.view(parts, -1, 1)  # [p, o / p or 1, 1]
    du = da = db = dm = None
    if needs_a or (needs_u and ctx.branch):
        scaled_b = (factor * lora_b).to(dtype)
        thin = [times(of_part, b.t()) for of_part, b in zip(by_part, scaled_b, strict=True)]
        p = thin[0] if parts == 1 else torch.cat(thin, dim=1)  # P, [T, p r]
    if through is None and (needs_a or needs_b):
        x = u if ctx.activation is None else activate(ctx.activation, u).to(dtype)
        through = _through(x, lora_a)
    if needs_a:
        da = times(p.t(), x.reshape(-1, width).t()).to(lora_a.dtype).view(parts, rank, width)
    if needs_b:
        thin = [
            thin_over_tokens(of_part, of_x.contiguous())
            for of_part, of_x in zip(by_part, through.chunk(parts, dim=1), strict=True)
        ]
        db = factor * torch.stack(thin).to(lora_b.dtype)
    if needs_m:
        of_bias = 0.0 if bias is None else bias.to(magnitude.dtype)
        along = sum_over_tokens((y.reshape_as(g).to(magnitude.dtype) - of_bias).mul_(g))
        dm = torch.where(magnitude == 0, 0.0, along / magnitude)
    if needs_u:
        if ctx.branch:
            of_base = g if ratios is None else g * ratios
            du = times(of_base, weight.t()).addmm_(p, lora_a.reshape(-1, width).to(dtype))
        else:
            du = times(g, weight.t())
        du = du.view(ctx.shape)
        du = du if ctx.activation is None else gradient(ctx.activation, du, u)
        du = du.to(ctx.u_dtype)
    return du, da, db, dm


def _through(x: Tensor, lora_a: Tensor) -> Tensor:
    """x Aᵀ of all parts, [T, p r]."""
    return times(x.reshape(-1, x.shape[-1]), lora_a.flatten(0, 1).to(x.dtype))


class ThinProduct(torch.autograd.Function):
    """y = x Vᵀ + b with V = W + s B A, all of one type, on a GPU.

    It costs more of the host's time than torch's own operators, so it is for products that keep a
    GPU busy. `AdaptedProduct` treats the parts of a layer one by one, which suits a CPU; here all
    have the same scale.

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
