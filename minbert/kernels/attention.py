"""Attention of every token to the real tokens of its sentence.

Letters: B sentences, S tokens in the longest, N heads of width D, H = N D.
"""

import math
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

from minbert.kernels.dropout import factor_of, keep_mask
from minbert.kernels.reference import is_eager_on_gpu, is_spelled_out, product_dtype

_ALIGNED: Final = 8
_UNSEEN: Final = -65504.0
"""The least number of fp16: a score that it is added to gets a weight of exactly 0. It is not −∞,
which cuDNN's attention, torch's choice on some GPUs, has problems with."""


def attention(
    qkv: Tensor, mask: Tensor | None, heads: int, p: float, first_only: bool = False,
    recompute: bool = False,
) -> Tensor:  # fmt: skip
    """softmax(q kᵀ / √D) v of every head, side by side, [B, S, H], or [B, 1, H].

    On a GPU, in compiled code, and on a CPU in fp32 without a gradient torch's kernel computes it,
    else it is computed here, as that kernel is slow with dropout and in half precision.

    Args:
        qkv: queries, keys and values side by side, [B, S, 3 H].
        mask: of `prepare_mask`; None where all tokens are real.
        p: the probability that a weight of the softmax is dropped.
        first_only: compute only the result of the first token of each sentence.
        recompute: compute the softmax again in the backward pass on a CPU, and don't keep it.
    """
    differentiated = torch.is_grad_enabled() and qkv.requires_grad
    is_exact = qkv.dtype == torch.float32 and not differentiated and p == 0
    if is_spelled_out(qkv) or is_exact:
        return torch_attention(qkv, mask, heads, p, first_only)
    return _Attention.apply(qkv, mask, heads, p, first_only, recompute)  # type: ignore[no-untyped-call]


def prepare_mask(mask: Tensor, like: Tensor) -> Tensor:
    """The form in which `attention` takes a mask [B, S], 1 or true at real tokens, in all layers:
    [B, S], true at real tokens. On a GPU a bias of the scores, [B, 1, 1, S], in the type of
    products with `like` and in rows of a multiple of 8 numbers; torch would convert and pad any
    other in every layer."""
    if not is_eager_on_gpu(like):
        return mask.bool()
    batch, length = mask.shape
    width = -(-length // _ALIGNED) * _ALIGNED
    rows = torch.zeros(batch, 1, 1, width, dtype=product_dtype(like), device=like.device)
    return rows[..., :length].masked_fill_((mask == 0)[:, None, None, :], _UNSEEN)


def torch_attention(
    qkv: Tensor, mask: Tensor | None, heads: int, p: float, first_only: bool = False
) -> Tensor:
    batch, length, width = qkv.shape
    split = qkv.view(batch, length, 3, heads, width // (3 * heads))
    # taken apart in this order, gradients are put together in the layout of qkv, without a copy
    q, k, v = (x.transpose(1, 2) for x in split.unbind(2))  # each [B, N, S, D]
    q = q[:, :, :1] if first_only else q
    seen = mask if mask is None or mask.dim() == 4 else mask[:, None, None, :]
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=p)
    return y.transpose(1, 2).reshape(batch, q.shape[2], width // 3)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, p: float) -> Tensor:
    """softmax(scale q kᵀ) v of every head on a CPU, [B, N, S, D], from q, k and v [B, N, S, D]; the
    mask broadcasts to [B, N, S, S] and is true where a token is seen. `p` as of `attention`."""
    batch, heads = q.shape[:2]
    unseen = None
    if mask is not None:
        # finite, as padding may see nothing within a window
        unseen = torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, _UNSEEN)
    dtype = product_dtype(q)
    q, k, v = (x.to(dtype).flatten(0, 1) for x in (q, k, v))
    y: Tensor = _Heads.apply(q, k, v, unseen, heads, scale, p)  # type: ignore[no-untyped-call]
    return y.view(batch, heads, *y.shape[1:])


def _weights(q: Tensor, k: Tensor, unseen: Tensor | None, heads: int, scale: float) -> Tensor:
    """softmax(scale q kᵀ + unseen) [B N, S, S], in the type of q."""
    exact = torch.promote_types(q.dtype, torch.float32)
    scores = _scaled(q, k.transpose(1, 2), scale).to(exact)
    if unseen is not None:
        scores.view(-1, heads, *scores.shape[1:]).add_(unseen)
    return torch.softmax(scores, dim=-1).to(q.dtype)


def _values(weights: Tensor, keep: Tensor | None, v: Tensor, p: float) -> Tensor:
    dropped = weights if keep is None else weights * keep
    return torch.bmm(dropped, v if keep is None else v * factor_of(p))


def _gradients(
    dy: Tensor, v: Tensor, weights: Tensor, keep: Tensor | None, p: float, dv: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The gradients of the scores before they are scaled, and of v."""
    if keep is not None:
        dy = dy * factor_of(p)
    dropped = weights if keep is None else weights * keep
    dv = torch.bmm(dropped.transpose(1, 2), dy, out=dv)
    dweights = torch.bmm(dy, v.transpose(1, 2))
    if keep is not None:
        dweights.mul_(keep)
    exact = torch.promote_types(dy.dtype, torch.float32)
    dscores: Tensor = torch.ops.aten._softmax_backward_data(
        dweights.to(exact), weights.to(exact), -1, exact
    ).to(dy.dtype)
    return dscores, dv


class _Heads(torch.autograd.Function):
    """Of q, k and v [B N, S, D]; keeps them, the weights and the dropout mask."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, unseen: Tensor | None, heads: int, scale: float,
        p: float,
    ) -> Tensor:  # fmt: skip
        with torch.autocast("cpu", enabled=False):
            weights = _weights(q, k, unseen, heads, scale)
            keep = keep_mask(weights, p) if p > 0 else None
            ctx.scale, ctx.p = scale, p
            ctx.save_for_backward(q, k, v, weights, keep)
            return _values(weights, keep, v, p)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = gradients
        q, k, v, weights, keep = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            dscores, dv = _gradients(dy, v, weights, keep, ctx.p)
            dq = _scaled(dscores, k, ctx.scale)
            dk = _scaled(dscores.transpose(1, 2), q, ctx.scale)
        return dq, dk, dv, None, None, None, None


class _Attention(torch.autograd.Function):
    """Keeps qkv, the dropout mask and the weights, or the mask of tokens to compute these again; in
    DoRA the layer before it keeps qkv as well. The softmax is in fp32, from scores in the type of
    qkv, in which its weights are kept."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, mask: Tensor | None, heads: int, p: float, first_only: bool,
        recompute: bool,
    ) -> Tensor:  # fmt: skip
        with torch.autocast("cpu", enabled=False):
            q, k, v = _to_heads(qkv, heads, 3)  # each [B N, S, D]
            q = q[:, :1] if first_only else q
            unseen = None
            if mask is not None:
                exact = torch.promote_types(q.dtype, torch.float32)
                unseen = torch.zeros_like(mask, dtype=exact).masked_fill_(~mask, -torch.inf)
                unseen = unseen[:, None, None, :]
            scale = 1 / math.sqrt(q.shape[-1])
            weights = _weights(q, k, unseen, heads, scale)  # [B N, S or 1, S]
            keep = keep_mask(weights, p) if p > 0 else None
            y = _values(weights, keep, v, p)
        ctx.heads, ctx.scale, ctx.p, ctx.first_only = heads, scale, p, first_only
        ctx.save_for_backward(qkv, keep, *((None, unseen) if recompute else (weights, None)))
        return _from_heads(y[None], heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        qkv, keep, weights, unseen = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            q, k, v = _to_heads(qkv, ctx.heads, 3)
            (dy,) = _to_heads(g, ctx.heads, 1)
            dqkv = torch.empty(3, *q.shape, dtype=q.dtype, device=q.device)
            dq = dqkv[0]
            if ctx.first_only:
                q, dq = q[:, :1], torch.empty_like(dy)
            if weights is None:
                weights = _weights(q, k, unseen, ctx.heads, ctx.scale)
            dscores, _ = _gradients(dy, v, weights, keep, ctx.p, dqkv[2])
            _scaled(dscores, k, ctx.scale, out=dq)
            if ctx.first_only:
                dqkv[0].zero_()[:, :1] = dq
            _scaled(dscores.transpose(1, 2), q, ctx.scale, out=dqkv[1])
            return _from_heads(dqkv, ctx.heads), None, None, None, None, None


def _scaled(a: Tensor, b: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """scale a b for batches of matrices."""
    like = a.new_empty(()).expand(*a.shape[:2], b.shape[2]) if out is None else out
    return torch.baddbmm(like, a, b, beta=0, alpha=scale, out=out)


def _to_heads(x: Tensor, heads: int, parts: int) -> tuple[Tensor, ...]:
    """The parts of [B, S, P H], each as [B N, S, D]."""
    batch, length, width = x.shape
    split = x.view(batch, length, parts, heads, width // (parts * heads)).permute(2, 0, 3, 1, 4)
    return split.reshape(parts, batch * heads, length, width // (parts * heads)).unbind(0)


def _from_heads(x: Tensor, heads: int) -> Tensor:
    """[B, S, P H] from P parts [P, B N, S, D]."""
    parts, rows, length, width = x.shape
    split = x.view(parts, rows // heads, heads, length, width).permute(1, 3, 0, 2, 4)
    return split.reshape(rows // heads, length, parts * heads * width)
