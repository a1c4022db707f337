"""Dropout, the residual sum and LayerNorm, as one operation."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

from minbert.kernels.dropout import factor_of, keep_mask
from minbert.kernels.reference import is_reference, is_spelled_out, product_dtype


def add_and_normalise(
    x: Tensor, y: Tensor, norm: nn.LayerNorm, p: float, training: bool, *, keep_sum: bool = False
) -> Tensor:
    """LayerNorm(x + dropout(y)), from x and y [..., H].

    Under autocast the result is in half precision, and on a CPU the sum too; mean and std are
    computed and applied in fp32. On a CPU x and y are kept for the backward pass, which the layers
    around keep as well, and their sum is computed again; with `keep_sum` the sum is kept instead.
    On a GPU the result is in fp32: LayerNorm takes and gives one type there.
    """
    if is_spelled_out(x):
        normed: Tensor = norm(x + F.dropout(y, p, training))
        is_cast = torch.compiler.is_compiling() and not is_reference()
        return normed.to(product_dtype(x)) if is_cast else normed
    dropped = p if training else 0.0
    keep = keep_mask(y, dropped) if dropped > 0 else None
    return _AddAndNormalise.apply(
        x, y, norm.weight, norm.bias, norm.eps, keep, factor_of(dropped), product_dtype(x), keep_sum
    )  # type: ignore[no-untyped-call]


class _AddAndNormalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        keep: Tensor | None,
        factor: float,
        dtype: torch.dtype,
        keep_sum: bool,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            total = _sum(x, y, keep, factor, dtype)
            out, mean, rstd = torch.native_layer_norm(total, weight.shape, weight, bias, eps)
        if any(ctx.needs_input_grad[:4]):
            ctx.factor, ctx.dtypes = factor, (x.dtype, y.dtype, dtype)
            summands = (total, None) if keep_sum else (x, y)
            ctx.save_for_backward(*summands, keep, weight, bias, mean, rstd)
        return out.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        needs_x, needs_y, needs_weight, needs_bias = ctx.needs_input_grad[:4]
        total, y, keep, weight, bias, mean, rstd = ctx.saved_tensors
        x_dtype, y_dtype, dtype = ctx.dtypes
        with torch.autocast(g.device.type, enabled=False):
            total = total if y is None else _sum(total, y, keep, ctx.factor, dtype)
            needed = [needs_x or needs_y, needs_weight, needs_bias]
            dtotal, dweight, dbias = torch.ops.aten.native_layer_norm_backward(
                g.to(total.dtype), total, weight.shape, mean, rstd, weight, bias, needed
            )
            dx = dtotal.to(x_dtype) if needs_x else None
            dy = None
            if needs_y:
                dy = dtotal.to(y_dtype)
                dy = dy if keep is None else (dy * keep).mul_(ctx.factor)
        return dx, dy, dweight, dbias, *[None] * 5


def _sum(x: Tensor, y: Tensor, keep: Tensor | None, factor: float, dtype: torch.dtype) -> Tensor:
    """x + factor (keep ⊙ y), in `dtype`."""
    kept = y.to(dtype) if keep is None else y.to(dtype) * keep
    return torch.add(x.to(dtype), kept, alpha=factor, out=None if keep is None else kept)
