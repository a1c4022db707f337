"""How a tensor is computed with: by its type, its device, its values, and the switch to plain
torch, which every kernel here is tested and measured against."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor

FAST: Final = "fast"
REFERENCE: Final = "reference"
KERNELS: Final = (FAST, REFERENCE)

_reference = False


@contextmanager
def kernels(name: str) -> Iterator[None]:
    """Within the block, compute the operations of a step by the kernels of that name, in the whole
    process: `fast`, or `reference`, which are torch's own operators under autograd. ValueError for
    another name."""
    if name not in KERNELS:
        raise ValueError(f"no kernels are called {name!r}; there are {', '.join(KERNELS)}")
    global _reference
    before, _reference = _reference, name == REFERENCE
    try:
        yield
    finally:
        _reference = before


def is_reference() -> bool:
    return _reference


def is_spelled_out(x: Tensor) -> bool:
    """Whether a kernel uses torch's own operators for x: with reference kernels; on a GPU, where
    torch has fused ones; and in code that torch.compile traces, which fuses them by itself."""
    return _reference or torch.compiler.is_compiling() or not on_cpu(x)


def is_eager_on_gpu(x: Tensor) -> bool:
    """Whether x is on a GPU, and neither reference kernels nor compiled code compute with it."""
    return not (_reference or torch.compiler.is_compiling() or on_cpu(x))


def product_dtype(x: Tensor) -> torch.dtype:
    """Autocast's type on x's device, or without autocast the type of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu"


def has_values(x: Tensor) -> bool:
    """Whether a tensor has values: it is neither fake, meta nor in torch.compile's trace."""
    if torch.compiler.is_compiling():
        return False
    return type(x) in (Tensor, torch.nn.Parameter) and not x.is_meta
