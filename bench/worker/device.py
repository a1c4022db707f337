"""The settings under which a process computes on its device, and copies of small results of many
steps in host memory, without waiting for a GPU."""

from typing import Final

import torch
from torch import Tensor

_LEAST: Final = 4096
"""Numbers in the first block; each further block is twice as long, so that there are few."""


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
