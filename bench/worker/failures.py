"""Classification of a cell's error: out of memory, a failed device, or a bug."""

from typing import Final

import torch

OUT_OF_MEMORY: Final = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
"""In messages of a RuntimeError: torch has no exception type for lack of memory on the host or in a
CUDA library."""

_DEVICE_CODES: Final = frozenset(
    (
        *(3, 35, 36, 46, 100, 101, 127, 201),  # not initialised, old driver, busy, no device
        *(209, 214, 220, 222),  # no kernel image, ECC, NVLink, PTX for a newer driver
        *(700, 714, 715, 719),  # illegal address, hardware stack, illegal instruction, launch
        *(802, 803, 804, 805, 806, 807, 808, 809, 810, 999),  # system, MPS, unknown
    )
)
"""Values of cudaError_t after which a process can no longer use the device. The grid then tries
whether another process can."""

_DEVICE_TEXTS: Final = (
    *("no kernel image is available", "unspecified launch failure", "illegal memory access"),
    *("uncorrectable ECC", "uncorrectable NVLink", "devices unavailable", "busy or unavailable"),
    *("no CUDA-capable device", "No CUDA GPUs are available", "Found no NVIDIA driver"),
    *("driver version is insufficient", "NVIDIA driver on your system is too old"),
    *("CUDA unknown error", "CUDA driver initialization failed", "cudaGetDeviceCount"),
    *("CUDA error: initialization error", "system not yet initialized"),
    *("unsupported display driver", "Torch not compiled with CUDA"),
)
"""The same errors, as torch words them when it gives no code: before 2.8, and while
initialising."""

_NOT_INITIALISED: Final = ("CUBLAS_STATUS_NOT_INITIALIZED", "CUDNN_STATUS_NOT_INITIALIZED")
"""Errors that cuBLAS and cuDNN also raise when memory runs out."""
_LIBRARY_MIB: Final = 256
"""With less memory free on the GPU, lack of memory was the reason."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or the device had no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    if any(sign in text for sign in _NOT_INITIALISED):
        free_mib = _free_mib()
        return free_mib is not None and free_mib < _LIBRARY_MIB
    return isinstance(error, RuntimeError) and any(sign in text for sign in OUT_OF_MEMORY)


def is_of_device(error: BaseException) -> bool:
    """Whether the device failed, in a way that may make the next cell fail too."""
    if getattr(error, "error_code", None) in _DEVICE_CODES:
        return True
    return any(sign in str(error) for sign in (*_DEVICE_TEXTS, *_NOT_INITIALISED))


def _free_mib() -> float | None:
    """Free memory of the current GPU; None if it does not answer."""
    try:
        return torch.cuda.mem_get_info()[0] / 2**20
    except (RuntimeError, AssertionError):
        return None
