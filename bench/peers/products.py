"""The speed of this machine's matrix products in the shapes of a training step."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bench.peers.limit import Shape
from minbert.kernels.products import times
from minbert.training.trainer import HALF

_MIN_REPEATS: Final = 5
_MIN_SECONDS: Final = 0.08
"""The least repeats and time of a shape."""
_LAUNCHES: Final = 100
"""Launches in a repeat on a GPU: a launch and the wait for it take longer than a small product."""
_HELD_CYCLES: Final = 4_000_000
"""GPU cycles, about 2 ms, for which the GPU waits, so that all launches of a repeat are queued when
the first begins: a launch from Python takes longer than a small product too."""


def measure_gflops(
    shapes: Sequence[Shape], amp: str, device: torch.device
) -> list[tuple[Shape, float]]:
    """10⁹ floating-point operations per second of each shape, by its fastest repeat.

    A limit is the best that can be reached, so other load on the machine must not count, and the
    faster of torch's own kernel and that of `minbert.kernels.products` does.

    Args:
        amp: AMP of the step; the products are in its half precision, or in fp32.
    """
    dtype = HALF.get(amp, torch.float32)
    return [(shape, _gflops(shape, dtype, device)) for shape in shapes]


def _gflops(shape: Shape, dtype: torch.dtype, device: torch.device) -> float:
    kind, rows, outputs, inputs = shape
    generator = torch.Generator().manual_seed(0)

    def random(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator).to(device, dtype)

    x, weight, gradient = random(rows, inputs), random(outputs, inputs), random(rows, outputs)
    products: dict[str, tuple[Callable[[], Tensor], ...]] = {
        "forward": (lambda: F.linear(x, weight), lambda: times(x, weight)),  # [rows, outputs]
        "dx": (lambda: gradient @ weight, lambda: times(gradient, weight.t())),  # [rows, inputs]
        "dw": (lambda: gradient.t() @ x, lambda: times(gradient.t(), x.t())),  # [outputs, inputs]
    }
    fastest_s = min(_fastest_s(product, device) for product in products[kind])
    return 2 * rows * outputs * inputs / fastest_s / 1e9


def _fastest_s(run: Callable[[], Any], device: torch.device) -> float:
    timer, runs = (_on_gpu_s, _LAUNCHES) if device.type == "cuda" else (_on_cpu_s, 1)
    with torch.inference_mode():
        run()
        times: list[float] = []
        while len(times) < _MIN_REPEATS or sum(times) < _MIN_SECONDS:
            times.append(timer(run, runs))
    return max(min(times) / runs, 1e-9)


def _on_cpu_s(run: Callable[[], Any], runs: int) -> float:
    start = time.perf_counter()
    for _ in range(runs):
        run()
    return time.perf_counter() - start


def _on_gpu_s(run: Callable[[], Any], runs: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda._sleep(_HELD_CYCLES)  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(runs):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000
