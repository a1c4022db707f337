"""Small results of many steps, kept where they take no memory of a GPU and make no step wait."""

from typing import Final

import torch
from torch import Tensor

_LEAST: Final = 4096
"""Numbers in the first block; each further one is twice as long, so that there are few of them."""


class HostCopies:
    """Keeps tensors in the host's memory.

    Of a GPU's tensors it keeps copies in pinned blocks, which are not waited for. Elsewhere tensors
    are there already, and are kept themselves.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._blocks: dict[torch.dtype, tuple[Tensor, int]] = {}
        """By type, the block that is filled now and how much of it is."""

    def keep(self, tensor: Tensor) -> Tensor:
        """The tensor on the host; its values are there after `wait`."""
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
        """Wait until the values of all that is kept are there."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
