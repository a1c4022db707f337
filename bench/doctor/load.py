"""A load on all threads: the same matrix product, over and over, timed one by one."""

import time
from typing import Final

import torch

_SIDE: Final = 512
"""Of the matrices, which stay in a core's cache, so that memory does not limit their products."""


def product_seconds(window_s: float, threads: int) -> list[float]:
    """The duration of each product in a window; the matrices' rows grow with the threads."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_SIDE * threads, _SIDE, generator=generator)
    weight = torch.randn(_SIDE, _SIDE, generator=generator)
    durations: list[float] = []
    end = time.perf_counter() + window_s
    while (begun := time.perf_counter()) < end or not durations:
        torch.mm(x, weight)
        durations.append(time.perf_counter() - begun)
    return durations
