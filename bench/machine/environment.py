"""The environment of a worker: variables that change its numbers are set, dropped or recorded.

docs/measuring.md has a table of them, which a test compares with the lists here.
"""

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from bench.common.messages import CALLED

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
ORDER: Final = "CUDA_DEVICE_ORDER"
BY_BUS: Final = "PCI_BUS_ID"
"""The variables that decide which GPUs a process sees, and in which order."""

_TUNABLES: Final = "GLIBC_TUNABLES"
_MALLOC: Final = "glibc.malloc."
_ALLOCATOR: Final = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:"
    "glibc.malloc.trim_threshold=2147483648"
)
"""Keep freed memory for the next step, in huge pages where the system has them.

By default, glibc returns the memory of large tensors when they are freed and requests it again,
page by page, in every step: an eighth of the time of a small encoder (docs/performance.md). Other C
libraries ignore this variable.
"""

_THREADS: Final = ("MKL_NUM_THREADS", "OMP_NUM_THREADS")
SET: Final = (VISIBLE, ORDER, *_THREADS, _TUNABLES)
"""Variables that are set; the last only if the user doesn't configure the allocator with it."""

DROPPED: Final = (
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"),
    *("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS"),
)
"""Variables that are dropped: they change what a cell computes, its precision or its instructions,
and no setting or column would show it."""

RECORDED: Final = (
    *("LD_PRELOAD", "MALLOC_*", "MIMALLOC_*", "TCMALLOC_*", "_RJEM_MALLOC_CONF", "PYTHONMALLOC"),
    *("OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*", "BLIS_*", "ONEDNN_*", "DNNL_*"),
    *("TORCH_MKLDNN_*", "THP_MEM_ALLOC_ENABLE", _TUNABLES),
    *("TORCH_COMPILE_*", "TORCHDYNAMO_*", "TORCHINDUCTOR_*"),
)
"""Variables that are inherited and recorded in a row's conditions: they change time or memory,
which a user may want."""

RECORDED_ON_GPU: Final = (
    *("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING"),
    *("CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING", "CUDA_MODULE_DATA_LOADING"),
    *("CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_AUTO_BOOST"),
    *("CUDA_FORCE_PTX_JIT", "CUDA_DISABLE_PTX_JIT", "CUDA_CACHE_DISABLE"),
    *("CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE", "TORCH_BLAS_PREFER_CUBLASLT"),
    *("DISABLE_ADDMM_CUDA_LT", "PYTORCH_TUNABLEOP_*", "CUDNN_*", "TORCH_CUDNN_*", "TRITON_*"),
)
"""More of these, where the device is a GPU; elsewhere they have no effect."""

_PLACES: Final = ("_DIR", "_FILE", "_HOME", "_PATH")
"""The endings of variables that name places of files, and change no number."""

_SET_BY_LIBRARIES: Final = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")
"""Variables that scikit-learn sets in its own process when imported; they change no number."""

_SEPARATORS: Final = re.compile(r"([:;,\s]+)")
_WORDS: Final = (
    "true false yes no on off auto none default static dynamic guided spread close master primary "
    "threads cores sockets active passive compact scatter balanced disabled explicit fine core "
    "thread tile respect norespect verbose noverbose warnings nowarnings turnaround throughput "
    "serial avx avx2 avx512 avx512_e1 sse2 sse4_1 sse4_2 compatible strict lp64 ilp64 gnu intel "
    "tbb sequential eager lazy native cudamallocasync prescott nehalem sandybridge haswell zen "
    "skylakex cooperlake sapphirerapids armv8 neoversen1 neoversev1 malloc debug pymalloc "
    "malloc_debug pymalloc_debug"
)
_KNOWN: Final = re.compile(
    r"(?:(?:[a-z][a-z_.]*(?=[:=])|[\w+-]+\.so[.\d]*|-?\d{1,12}(?:\.\d+)?[a-z]{0,2}|"
    rf"{_WORDS.replace(' ', '|')}|)(?:[:;,|=(){{}}\s]+|$))*",
    re.IGNORECASE,
)
"""Values that are recorded as they are: numbers, words that these variables take, names of
libraries, and lists of these, also with names before them."""


def worker_environment(
    inherited: Mapping[str, str], threads: int, gpu: str = "", *, tuned: bool = True
) -> dict[str, str]:
    """The whole environment of a worker.

    Args:
        gpu: the UUID of the one GPU that it sees; empty: none.
        tuned: whether the allocator is configured to keep memory, unless the user configures it.
    """
    tunables = inherited.get(_TUNABLES, "")
    if tuned and _MALLOC not in tunables:
        tunables = ":".join(filter(None, (tunables, _ALLOCATOR)))
    kept = {name: value for name, value in inherited.items() if name not in (*DROPPED, CALLED)}
    return {
        **kept,
        **({_TUNABLES: tunables} if tunables else {}),
        VISIBLE: gpu,
        ORDER: BY_BUS,
        **dict.fromkeys(_THREADS, str(threads)),
    }


def command_line(environment: Mapping[str, str], argv: Sequence[str]) -> str:
    """The shell command that runs a worker by hand, with the variables that are set for it."""
    names = (*SET, "PYTHONPATH", "PYTHONSAFEPATH")
    pairs = [f"{name}={environment[name]}" for name in names if name in environment]
    return shlex.join(["env", *pairs, *argv])


def recorded(inherited: Mapping[str, str], *, on_gpu: bool) -> str | None:
    """Inherited variables that change numbers, for the column `environment`; None without any.

    Paths are shortened to their last part. Values that may be anything, a secret too, are digests.
    """
    patterns = (*RECORDED, *(RECORDED_ON_GPU if on_gpu else ()))
    pairs = [
        f"{name}={shlex.quote(_shown(_without_paths(value)))}"
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


def _shown(value: str) -> str:
    if _KNOWN.fullmatch(value):
        return value
    return f"sha256:{hashlib.sha256(value.encode()).hexdigest()[:12]}"
