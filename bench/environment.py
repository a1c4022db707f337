"""The environment of a worker: what would change its numbers or its speed is set, not inherited."""

from collections.abc import Mapping
from typing import Final

_DROPPED: Final = (
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"),
)
"""They would change what a cell computes behind its settings' back."""

_TUNABLES: Final = "GLIBC_TUNABLES"
_MALLOC: Final = "glibc.malloc."
_ALLOCATOR: Final = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:"
    "glibc.malloc.trim_threshold=2147483648"
)
"""Keep freed memory for the next step, in huge pages where the system has them.

As it comes, glibc gives the memory of large tensors back when they die and asks for it again, page
by page, in every step: an eighth of a step of a small encoder (docs/performance.md). Other C
libraries ignore it.
"""


def worker_environment(
    inherited: Mapping[str, str], threads: int, *, tuned: bool = True
) -> dict[str, str]:
    """The whole environment of a worker with so many threads.

    Args:
        tuned: whether the allocator is told to keep memory, if the user doesn't tell it anything.
    """
    told = inherited.get(_TUNABLES, "")
    if tuned and _MALLOC not in told:
        told = ":".join(filter(None, (told, _ALLOCATOR)))
    kept = {name: value for name, value in inherited.items() if name not in _DROPPED}
    return {
        **kept,
        **({_TUNABLES: told} if told else {}),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "MKL_NUM_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
    }
