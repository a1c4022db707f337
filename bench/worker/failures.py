"""Classification of a cell's error: out of memory, a failed device, or a bug."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import torch

OUT_OF_MEMORY: Final = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED", "NVML_SUCCESS == r")
"""In messages of a RuntimeError: torch has no exception type for lack of memory on the host or in a
CUDA library. The last is of torch's allocator: where NVML fails (MIG, Jetson, some containers), it
can't describe the lack of memory that it has met (pytorch#112377)."""

_DEVICE_TEXTS: Final = (
    *("CUDA error", "CUDA driver", "CUDA unknown error", "cudaGetDeviceCount", "No CUDA GPUs"),
    *("NVIDIA driver", "not compiled with CUDA", "CUBLAS_STATUS", "CUDNN_STATUS"),
)
"""In messages of errors after which a process may no longer be able to use the device. The grid
then tries whether another process can."""

_NOT_INITIALISED: Final = ("CUBLAS_STATUS_NOT_INITIALIZED", "CUDNN_STATUS_NOT_INITIALIZED")
"""Errors that cuBLAS and cuDNN also raise when memory runs out."""
_LIBRARY_MIB: Final = 256
"""With less memory free on the GPU, lack of memory was the reason."""


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    if any(sign in text for sign in _NOT_INITIALISED):
        with suppress(RuntimeError, AssertionError):  # of a GPU that does not answer
            return torch.cuda.mem_get_info()[0] / 2**20 < _LIBRARY_MIB
        return False
    return isinstance(error, RuntimeError) and any(sign in text for sign in OUT_OF_MEMORY)


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
    return any(sign in str(error) for sign in _DEVICE_TEXTS)
