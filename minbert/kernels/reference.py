"""The switch to plain torch, which every kernel here is tested and measured against."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

import torch

FAST: Final = "fast"
REFERENCE: Final = "reference"
KERNELS: Final = (FAST, REFERENCE)

_reference = False


def kernels(name: str) -> AbstractContextManager[None]:
    """Within the block, compute the operations of a step by the kernels of that name.

    Raises:
        ValueError: for another name than `fast` or `reference`.
    """
    if name not in KERNELS:
        raise ValueError(f"no kernels are called {name!r}; there are {', '.join(KERNELS)}")
    return use_reference() if name == REFERENCE else nullcontext()


@contextmanager
def use_reference() -> Iterator[None]:
    """Within the block, compute every kernel by torch's own operators, under autograd, in the whole
    process."""
    global _reference
    before, _reference = _reference, True
    try:
        yield
    finally:
        _reference = before


def is_reference() -> bool:
    """Whether kernels are torch's own operators, by `use_reference`."""
    return _reference


def is_spelled_out() -> bool:
    """Whether a kernel uses torch's own operators: with reference kernels, and in code that
    torch.compile traces, since the compiler fuses operators by itself."""
    return _reference or torch.compiler.is_compiling()
