"""The environment of a worker: what would change its numbers is set, dropped or recorded.

docs/measuring.md has the table, and a test holds it to the lists here.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
ORDER: Final = "CUDA_DEVICE_ORDER"
BY_BUS: Final = "PCI_BUS_ID"
"""Values of these say which GPUs a process sees, and in which order."""

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

_THREADS: Final = ("MKL_NUM_THREADS", "OMP_NUM_THREADS")
SET: Final = (VISIBLE, ORDER, *_THREADS, _TUNABLES)
"""They are set; the last only if the user doesn't set the allocator by it."""

DROPPED: Final = (
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"),
    *("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS"),
)
"""They would change what a cell computes, its precision or its instructions, and no setting or
column would say so."""

RECORDED: Final = (
    *("LD_PRELOAD", "MALLOC_*", "MIMALLOC_*", "TCMALLOC_*", "_RJEM_MALLOC_CONF", "PYTHONMALLOC"),
    *("OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*", "BLIS_*", "ONEDNN_*", "DNNL_*"),
    *("TORCH_MKLDNN_*", "THP_MEM_ALLOC_ENABLE", _TUNABLES),
    *("TORCH_COMPILE_*", "TORCHDYNAMO_*", "TORCHINDUCTOR_*"),
)
"""They change time or memory, as a user may want it: they are inherited, and part of a row's
conditions."""

RECORDED_ON_GPU: Final = (
    *("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING"),
    *("CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING", "CUDA_MODULE_DATA_LOADING"),
    *("CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_AUTO_BOOST"),
    *("CUDA_FORCE_PTX_JIT", "CUDA_DISABLE_PTX_JIT", "CUDA_CACHE_DISABLE"),
    *("CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE", "TORCH_BLAS_PREFER_CUBLASLT"),
    *("DISABLE_ADDMM_CUDA_LT", "PYTORCH_TUNABLEOP_*", "CUDNN_*", "TORCH_CUDNN_*", "TRITON_*"),
)
"""The same, where the device is a GPU; elsewhere they are without effect."""

_PLACES: Final = ("_DIR", "_FILE", "_HOME", "_PATH")
"""How variables end that say where files are, and change no number."""

_SET_BY_LIBRARIES: Final = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")
"""What scikit-learn sets in its own process as it is imported; no number changes with it."""

_SEPARATORS: Final = re.compile(r"([:;,\s]+)")


def worker_environment(
    inherited: Mapping[str, str], threads: int, gpu: str = "", *, tuned: bool = True
) -> dict[str, str]:
    """The whole environment of a worker with so many threads.

    Args:
        gpu: the one GPU that it sees, by its UUID; empty: it sees none.
        tuned: whether the allocator is told to keep memory, if the user doesn't tell it anything.
    """
    told = inherited.get(_TUNABLES, "")
    if tuned and _MALLOC not in told:
        told = ":".join(filter(None, (told, _ALLOCATOR)))
    kept = {name: value for name, value in inherited.items() if name not in DROPPED}
    return {
        **kept,
        **({_TUNABLES: told} if told else {}),
        VISIBLE: gpu,
        ORDER: BY_BUS,
        **dict.fromkeys(_THREADS, str(threads)),
    }


def command_line(environment: Mapping[str, str], argv: Sequence[str]) -> str:
    """The command that runs a worker by hand, with the variables that are set for it."""
    pairs = [f"{name}={environment[name]}" for name in SET if name in environment]
    return shlex.join(["env", *pairs, *argv])


def recorded(inherited: Mapping[str, str], *, on_gpu: bool) -> str | None:
    """The inherited variables that change numbers, for the column `environment`; None: no such.

    Paths are shortened to their last part.
    """
    patterns = (*RECORDED, *(RECORDED_ON_GPU if on_gpu else ()))
    pairs = [
        f"{name}={shlex.quote(_without_paths(value))}"
        for name, value in sorted(inherited.items())
        if value
        and name not in (*DROPPED, *_THREADS, *_SET_BY_LIBRARIES)
        and not name.endswith(_PLACES)
        and any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    return " ".join(pairs) or None


def _without_paths(value: str) -> str:
    text = value.encode(errors="backslashreplace").decode()
    return " ".join("".join(part.rpartition("/")[2] for part in _SEPARATORS.split(text)).split())
