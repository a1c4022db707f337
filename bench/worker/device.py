"""The device of a process: its settings, its errors, and copies of small results in host memory,
without waiting for a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor

from minbert.errors import is_out_of_memory

_DEVICE_TEXTS: Final = (
    *("CUDA error", "CUDA driver", "CUDA unknown error", "cudaGetDeviceCount", "No CUDA GPUs"),
    *("NVIDIA driver", "not compiled with CUDA", "CUBLAS_STATUS", "CUDNN_STATUS"),
)
"""In messages of errors after which a process may no longer be able to use the device. The grid
then tries whether another process can."""

_LEAST: Final = 4096
"""Numbers in the first block; each further block is twice as long, so that there are few."""


@contextmanager
def if_memory_suffices(device: torch.device) -> Iterator[None]:
    """End the block, without an error, where memory runs out in it. The random numbers of the host
    and of a GPU are afterwards as before it."""
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise


def is_of_device(error: BaseException) -> bool:
    """Whether the device failed, in a way that may make the next cell fail too."""
    is_first_call = isinstance(error, torch.cuda.DeferredCudaCallError)
    return is_first_call or any(sign in str(error) for sign in _DEVICE_TEXTS)


def set_up_device(device: torch.device, *, tf32: bool = False) -> None:
    """Make a GPU the current one, with fp32 products in full or in TF32, and without cuDNN's
    attention.

    On some GPUs torch prefers that under AMP. It has given gradients that are not numbers with
    masks (pytorch#196678, torch 2.13), and builds a plan for every new shape of a batch, within a
    step that is timed.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cuda.enable_cudnn_sdp(False)


class HostCopies:
    """Keeps tensors in the host's memory: those on a GPU are copied to pinned blocks
    asynchronously, the others kept as they are."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._blocks: dict[torch.dtype, tuple[Tensor, int]] = {}
        """By type, the block being filled and how much of it is used."""

    def keep(self, tensor: Tensor) -> Tensor:
        """The tensor in host memory; its values are valid after `wait`."""
        if self._device.type != "cuda":
            return tensor
        count = tensor.numel()
        block, used = self._blocks.get(tensor.dtype, (None, 0))
        if block is None or used + count > len(block):
            length = max(_LEAST, 2 * len(block) if block is not None else 0, count)
            block, used = torch.empty(length, dtype=tensor.dtype, pin_memory=True), 0
        self._blocks[tensor.dtype] = block, used + count
        return block[used : used + count].view(tensor.shape).copy_(tensor, non_blocking=True)

    def wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
