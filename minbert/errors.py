"""The error for bad input, whose text is the line that a user sees, and a value in such a line; and
which errors are a lack of memory."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

HOST_MEMORY: Final = ("DefaultCPUAllocator", "can't allocate memory")
OUT_OF_MEMORY: Final = (
    *("out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED", "NVML_SUCCESS == r"), *HOST_MEMORY,
)  # fmt: skip
"""In messages of errors that are a lack of memory, on a GPU or the host: torch, its libraries and
triton have no common type for it. The fourth is of torch's allocator: where NVML fails (MIG,
Jetson, some containers), it can't describe the lack of memory that it has met (pytorch#112377).
Triton's `OutOfResources` is none: a kernel that exceeds a block's share of registers or shared
memory does so however much memory is free."""
_NOT_INITIALISED: Final = ("CUBLAS_STATUS_NOT_INITIALIZED", "CUDNN_STATUS_NOT_INITIALIZED")
"""Errors that cuBLAS and cuDNN also raise when memory runs out."""
_LIBRARY_MIB: Final = 256  # with less memory free on the GPU, lack of memory was the reason


class InputError(ValueError):
    """Input that can't be used. The message is one line: what was wrong, where, and what to do;
    commands print it and leave with exit code 2."""


def is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    if any(sign in text for sign in _NOT_INITIALISED):
        import torch  # which has raised it

        with suppress(RuntimeError, AssertionError):  # of a GPU that does not answer
            return torch.cuda.mem_get_info()[0] / 2**20 < _LIBRARY_MIB
        return False
    return isinstance(error, MemoryError) or any(sign in text for sign in OUT_OF_MEMORY)


@contextmanager
def reading(path: object, *kinds: type[Exception], end: str = "") -> Iterator[None]:
    """Within the block, an OSError, ValueError or error of other kinds says in a line that a file
    can't be read, why, and at its end what to do."""
    caught: tuple[type[Exception], ...] = (OSError, ValueError, *kinds)
    try:
        yield
    except caught as error:
        raise InputError(f"{path}: can't be read ({error}){end}") from error


def shown(value: object) -> str:
    """Any value in at most 60 ASCII characters, for a message."""
    try:
        return ascii(value)[:60]
    except (RecursionError, ValueError):  # nested too deeply, or a number of too many digits
        return f"a value ({type(value).__name__}) that is too large to show"
