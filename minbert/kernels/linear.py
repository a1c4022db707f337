"""A linear layer that computes the activation of its input itself, one of BERT's wide layer.

The activation is recomputed in the backward pass: that costs a hundredth of a step, and keeping it
would take a quarter of the memory of all activations. On a GPU it is kept, so that no more bytes
are moved than by plain torch. A layer keeps its input only if its weight trains.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

from minbert.kernels.products import sum_over_tokens, times
from minbert.kernels.reference import is_spelled_out, product_dtype


def activate(name: str, u: Tensor) -> Tensor:
    if name == "relu":
        return F.relu(u)
    return F.gelu(u, approximate="none" if name == "gelu" else "tanh")


def gradient(name: str, g: Tensor, u: Tensor) -> Tensor:
    """The gradient of u, given that of its activation; both have the shape of u."""
    if name == "relu":
        return torch.where(u > 0, g, 0)
    return torch.ops.aten.gelu_backward(g, u, approximate="none" if name == "gelu" else "tanh")


class Linear(nn.Linear):
    """y = f(x) Wᵀ + b, with x [..., i], W [o, i], b [o], y [..., o], and f none or one of
    `minbert.model.config.ACTIVATIONS`; in autocast's type, or without autocast in x's."""

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        if is_spelled_out(x):
            x = x if activation is None else activate(activation, x)
            return F.linear(x, self.weight, self.bias)
        return product(x, self.weight, self.bias, activation)


def product(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    """f(x) Wᵀ + b, as of `Linear`, with a backward pass that recomputes the activation."""
    return _Product.apply(x, weight, bias, activation, product_dtype(x))  # type: ignore[no-untyped-call]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        activation: str | None,
        dtype: torch.dtype,
    ) -> Tensor:
        needs_u, needs_weight = ctx.needs_input_grad[:2]
        ctx.activation = activation
        ctx.dtypes = u.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype
        with torch.autocast(u.device.type, enabled=False):
            x = (u if activation is None else activate(activation, u)).to(dtype)
            used = weight.to(dtype)
            y = times(x, used, None if bias is None else bias.to(dtype))
        if activation is None:
            kept = x if needs_weight else None
        else:
            kept = u if needs_u or needs_weight else None
        ctx.save_for_backward(kept, used if needs_u else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        needs_u, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        kept, weight = ctx.saved_tensors
        u_dtype, weight_dtype, bias_dtype = ctx.dtypes
        du = dw = db = None
        with torch.autocast(g.device.type, enabled=False):
            flat = g.reshape(-1, g.shape[-1])  # [T, o]
            if needs_weight:
                x = kept if ctx.activation is None else activate(ctx.activation, kept).to(g.dtype)
                dw = (flat.t() @ x.reshape(-1, x.shape[-1])).to(weight_dtype)
            if needs_bias:
                db = sum_over_tokens(flat).to(bias_dtype)
            if needs_u:
                dx = times(flat, weight.t()).view(*g.shape[:-1], weight.shape[1])
                if ctx.activation is None:
                    du = dx.to(u_dtype)
                else:
                    du = gradient(ctx.activation, dx.to(u_dtype), kept)
        return du, dw, db, None, None
