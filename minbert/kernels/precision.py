"""Properties that decide how a tensor is computed with: its type, its device, its values."""

import torch
from torch import Tensor


def product_dtype(x: Tensor) -> torch.dtype:
    """Autocast's type on x's device, or without autocast the type of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def on_cpu(x: Tensor) -> bool:
    """Whether a tensor is on the CPU, where some things are computed differently."""
    return x.device.type == "cpu"


def has_values(x: Tensor) -> bool:
    """Whether a tensor has values: fake and meta tensors, and those that torch.compile traces with,
    do not."""
    if torch.compiler.is_compiling():
        return False
    return type(x) in (Tensor, torch.nn.Parameter) and not x.is_meta
