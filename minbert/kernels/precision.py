"""What decides how something is computed: a tensor's type, its device, whether it has values."""

import torch
from torch import Tensor


def product_dtype(x: Tensor) -> torch.dtype:
    """Autocast's type for x's device, or without autocast that of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def on_cpu(x: Tensor) -> bool:
    """Whether a tensor is on the CPU, for whose kernels some things are done otherwise."""
    return x.device.type == "cpu"


def has_values(x: Tensor) -> bool:
    """Whether a tensor is more than a shape; those by which a step is counted are not, nor those
    that torch.compile traces with."""
    if torch.compiler.is_compiling():
        return False
    return type(x) in (Tensor, torch.nn.Parameter) and not x.is_meta
