"""Memory of this process by kind, and of what it holds by owner. All in MiB."""

import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import torch
from torch import nn

MIB: Final = 2**20
_STATUS: Final = Path("/proc/self/status")


def peak_rss_mib() -> float:
    """The peak resident set of this process, mapped files included.

    On Linux it is the kernel's VmHWM: `ru_maxrss` there is inherited across exec, and so starts
    at the size of the parent.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def start_cuda_peaks(device: torch.device) -> None:
    """Forget the peaks that torch's CUDA allocator has seen so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def cuda_peaks_mib(device: torch.device) -> dict[str, float]:
    """Peak CUDA memory allocated by tensors and reserved by the allocator; empty on the CPU."""
    if device.type != "cuda":
        return {}
    return {
        "peak_cuda_allocated_mib": torch.cuda.max_memory_allocated(device) / MIB,
        "peak_cuda_reserved_mib": torch.cuda.max_memory_reserved(device) / MIB,
    }


def _size_mib(tensors: Iterable[torch.Tensor]) -> float:
    distinct = {tensor.data_ptr(): tensor.nbytes for tensor in tensors if tensor.nbytes}
    return sum(distinct.values()) / MIB


def owned_mib(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Memory of weights (buffers included), of the gradients and of the optimizer's state.

    Taken after a step and before the gradients are dropped, so that all three exist.
    """
    parameters = list(model.parameters())
    state = [
        value
        for values in optimizer.state.values()
        for value in values.values()
        if isinstance(value, torch.Tensor)
    ]
    return {
        "weights_mib": _size_mib([*parameters, *model.buffers()]),
        "gradients_mib": _size_mib(p.grad for p in parameters if p.grad is not None),
        "optimizer_mib": _size_mib(state),
    }
