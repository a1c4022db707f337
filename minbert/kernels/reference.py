"""The way back to plain torch: what every kernel here is tested against, and measured against."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_plain = False


@contextmanager
def plain() -> Iterator[None]:
    """While it is entered, every kernel is spelled out in torch's own operators, under autograd.

    For the whole process.
    """
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


def is_plain() -> bool:
    """Whether `plain` is entered."""
    return _plain


def is_spelled_out() -> bool:
    """Whether a kernel is spelled out in torch's own operators: while `plain` is entered, and in
    code that torch.compile traces, since the compiler fuses operators by itself."""
    return _plain or torch.compiler.is_compiling()
