"""Dropout with cheap random numbers; and with the residual sum and LayerNorm, as one operation.

On a CPU torch draws them one by one from a Mersenne twister, which takes a tenth of a training step
of a small encoder. Here numpy's SFC64 (tested with PractRand) draws them, seeded for each call from
torch's own generator, so that `torch.manual_seed` still determines them all. Each has 16 bits, so
the probability is exact to 1/65536.
"""

from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

from minbert.kernels.reference import has_values, is_reference, is_spelled_out, product_dtype

_STEPS: Final = 1 << 16
_DRAWS_IN_WORD: Final = 4


def keep_mask(like: Tensor, p: float) -> Tensor:
    """A uint8 mask in the shape of a tensor: 0 with probability p, exact to 1/65536, else 1."""
    if not has_values(like):
        return torch.empty_like(like, dtype=torch.uint8)
    count = like.numel()
    seed = int(torch.randint(1 << 62, ()).item())
    words = np.random.SFC64(seed).random_raw(-(-count // _DRAWS_IN_WORD))
    kept = words.view(np.uint16)[:count] >= round(p * _STEPS)
    return torch.from_numpy(kept.view(np.uint8)).view(like.shape)


def factor_of(p: float) -> float:
    """The factor on kept elements: 1 / (1 − p), or 0 if p is 1."""
    return 0.0 if p == 1 else 1 / (1 - p)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """x with each element 0 with probability p, else divided by 1 − p; x itself in evaluation."""
    if not training or p == 0:
        return x
    if is_spelled_out(x):
        return F.dropout(x, p)
    return x * keep_mask(x, p) * factor_of(p)


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
