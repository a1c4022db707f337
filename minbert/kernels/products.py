"""Products of a linear layer, by the fastest kernel that torch has for them.

In fp32 on a CPU torch multiplies by MKL. oneDNN, which torch uses in half precision, is a tenth
faster for the shapes of small encoders and several times so for the thin ones of adapters;
docs/performance.md has the figures. It is called through the operator that torch's compiler uses.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from minbert.kernels.reference import has_values, on_cpu


@cache
def _has_onednn() -> bool:
    return torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def times(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b, [..., o], from x [..., i], W [o, i] and b [o]; not differentiable. x and W are
    contiguous, or transposes of contiguous matrices."""
    if x.dtype == torch.float32 and on_cpu(x) and x.numel() > 0 and has_values(x) and _has_onednn():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def thin_over_tokens(g: Tensor, thin: Tensor) -> Tensor:
    """Gᵀ x, [o, r], from G [T, o], which may be part of a larger matrix, and x [T, r], r small."""
    if not torch.compiler.is_compiling() and g.is_contiguous():
        return times(thin.t(), g.t()).t()
    return (thin.t() @ g).t()


def sum_over_tokens(g: Tensor) -> Tensor:
    """Column sums [o] of G [T, o], contiguous, in its type; summed in fp32 or better. On a CPU it
    is a product with ones, as torch's sum over rows takes ten times as long; the compiler fuses the
    sum."""
    if not on_cpu(g) or torch.compiler.is_compiling():
        return g.sum(dim=0)
    return times(torch.ones(1, len(g), dtype=g.dtype, device=g.device), g.t())[0]
