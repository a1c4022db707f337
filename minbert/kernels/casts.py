"""Casts of a layer's weights to half precision by one kernel, on a GPU under autocast.

Autocast casts every weight and bias by a kernel of its own, and its gradient back by another. A
small encoder on a GPU is bound by the number of kernels.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from minbert.kernels.precision import product_dtype
from minbert.kernels.reference import is_eager_on_gpu

_copies: dict[Tensor, Tensor] = {}


def cast_together(module: nn.Module, x: Tensor) -> AbstractContextManager[None]:
    """A context in which `cast` gives each of a module's parameters in autocast's type, once.

    Those of LayerNorm, and those that a module names in its attribute `uncast`, keep their type.
    Without autocast, on a CPU, with reference kernels and in compiled code all do.
    """
    if is_eager_on_gpu(x) and torch.is_autocast_enabled(x.device.type):
        return _casting(module, product_dtype(x))
    return nullcontext()


def cast(parameter: Tensor) -> Tensor:
    """The copy of a parameter that `cast_together` has made, or itself if there is none.

    The copy is given away, so that it does not outlive its use.
    """
    return parameter if torch.compiler.is_compiling() else _copies.pop(parameter, parameter)


@contextmanager
def _casting(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    parameters = [
        parameter
        for part in module.modules()
        if not isinstance(part, nn.LayerNorm)
        for name, parameter in part.named_parameters(recurse=False)
        if parameter.dtype != dtype and name not in getattr(part, "uncast", ())
    ]
    _copies.update(zip(parameters, _Cast.apply(dtype, *parameters), strict=True))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        _copies.clear()


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        copies = _copy(tensors, dtype)
        ctx.set_materialize_grads(False)
        needed = ctx.needs_input_grad[1:]
        ctx.mark_non_differentiable(
            *(copy for copy, needs in zip(copies, needed, strict=True) if not needs)
        )
        return tuple(copies)

    @staticmethod
    @once_differentiable
    def backward(_ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        exact = iter(_copy([g for g in gradients if g is not None], torch.float32))
        return None, *(None if g is None else next(exact) for g in gradients)


def _copy(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if copies:
        torch._foreach_copy_(copies, list(tensors))
    return copies
