"""How fast this machine multiplies matrices of the shapes that a step has."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bench.peers.limit import Shape
from minbert.kernels.products import times
from minbert.training.trainer import HALF

_AT_LEAST: Final = 5
_SECONDS: Final = 0.08
"""Time and number of repeats that a shape gets at the least."""
_LAUNCHES: Final = 100
"""On a GPU, in one repeat: one launch, and waiting for it, takes longer than a small product."""
_HELD_CYCLES: Final = 4_000_000
"""Of the GPU, about 2 ms: it waits so long, and all launches of a repeat are in its queue when the
first begins. A launch from Python takes longer than a small product too."""


def measure_gflops(
    shapes: Sequence[Shape], amp: str, device: torch.device
) -> list[tuple[Shape, float]]:
    """10⁹ floating-point operations a second of each shape, the fastest of its repeats.

    A limit is what can be reached, so what the machine did beside one repeat must not count, and of
    torch's own kernel and that of `minbert.kernels.products` the faster one does.

    Args:
        amp: of the step: the products are in its half type, or in fp32.
    """
    dtype = HALF.get(amp, torch.float32)
    return [(shape, _gflops(shape, dtype, device)) for shape in shapes]


def _gflops(shape: Shape, dtype: torch.dtype, device: torch.device) -> float:
    kind, rows, outputs, inputs = shape
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator).to(device, dtype)

    x, weight, gradient = draw(rows, inputs), draw(outputs, inputs), draw(rows, outputs)
    products: dict[str, tuple[Callable[[], Tensor], ...]] = {
        "forward": (lambda: F.linear(x, weight), lambda: times(x, weight)),  # [rows, outputs]
        "dx": (lambda: gradient @ weight, lambda: times(gradient, weight.t())),  # [rows, inputs]
        "dw": (lambda: gradient.t() @ x, lambda: times(gradient.t(), x.t())),  # [outputs, inputs]
    }
    fastest_s = min(_fastest_s(product, device) for product in products[kind])
    return 2 * rows * outputs * inputs / fastest_s / 1e9


def _fastest_s(run: Callable[[], Any], device: torch.device) -> float:
    time_of, runs = (_on_gpu_s, _LAUNCHES) if device.type == "cuda" else (_on_cpu_s, 1)
    with torch.inference_mode():
        run()
        times: list[float] = []
        while len(times) < _AT_LEAST or sum(times) < _SECONDS:
            times.append(time_of(run, runs))
    return max(min(times) / runs, 1e-9)


def _on_cpu_s(run: Callable[[], Any], runs: int) -> float:
    begun = time.perf_counter()
    for _ in range(runs):
        run()
    return time.perf_counter() - begun


def _on_gpu_s(run: Callable[[], Any], runs: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda._sleep(_HELD_CYCLES)  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(runs):
        run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000
