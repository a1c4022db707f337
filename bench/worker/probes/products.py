"""The least time of a training step: the matrix products that no implementation can leave out, at
their measured speeds.

A product of an [m, k] and a [k, n] matrix is 2 m n k floating-point operations. A step requires, on
real tokens:

- the forward product of each linear layer at the tokens on which the logits depend: in the last
  layer only the first token of a text, if the pooling reads no others;
- dX, the gradient of its input, if something below trains;
- dW, the gradient of its weight, if that trains;
- for a low-rank adapter X Aᵀ, P = G B, dA = Pᵀ X and dB = Gᵀ (X Aᵀ), and the update itself either
  merged into the weight, 2 o i r, or as a branch, whichever is less.

Attention's own products, convolutions, norms, activations, dropout, the optimizer and the vectors
of other adapters are not counted, so no implementation reaches the limit, with one exception: fused
query, key and value are timed as three products, and a single one can be faster. DeBERTa's
`in_proj` mixes them by heads, and counts as one product of all tokens.

Everything is observed while the model runs on a few texts, so it holds for any encoder.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from adapters.layer import AdaptedLinear
from bench.plan.cell import Columns
from minbert.data.batches import Batch
from minbert.kernels.products import times
from minbert.training.trainer import HALF, autocast, logits_of

KINDS: Final = ("forward", "dx", "dw")
_TEXTS: Final = 2
"""Texts on which the model runs."""
_FUSED: Final = "qkv"
"""The end of the names of layers that compute query, key and value, in this order."""
_BASE: Final = "base_layer"
"""The frozen layer in one of PEFT's."""
_MINOR: Final = 0.01
"""The share of all operations below which a shape is not measured: the mean speed is assumed."""

_MIN_REPEATS: Final = 5
_MIN_SECONDS: Final = 0.005
"""The least repeats and time of a shape."""
_LAUNCHES: Final = 100
"""Launches in a repeat on a GPU: a launch and the wait for it take longer than a small product."""
_HELD_CYCLES: Final = 4_000_000
"""GPU cycles, about 2 ms, for which the GPU waits, so that all launches of a repeat are queued when
the first begins: a launch from Python takes longer than a small product too."""

Shape = tuple[str, int, int, int]
"""Kind, rows, outputs and inputs of a product."""


@dataclass
class Products:
    """The products of a step: the number of each `wide` shape, and the operations of the adapters'
    `thin` products, whose speed is not measured."""

    wide: Counter[Shape] = field(default_factory=Counter)
    thin_flops: int = 0

    def add(self, call: "_Call", rows: int) -> None:
        outputs, inputs, rank, dx, dw = call
        kinds = zip(KINDS, (True, dx, dw), strict=True)
        self.wide.update((kind, rows, outputs, inputs) for kind, is_needed in kinds if is_needed)
        with_a, with_b = 2 * rows * rank * inputs, 2 * rows * rank * outputs
        update = min(2 * outputs * inputs * rank, with_b + (with_a if dx else 0))
        self.thin_flops += 2 * with_a + 2 * with_b + update

    @property
    def flops(self) -> int:
        wide = sum(number * flops_of(shape) for shape, number in self.wide.items())
        return wide + self.thin_flops

    @property
    def major(self) -> list[Shape]:
        least = _MINOR * self.flops
        return [shape for shape, number in self.wide.items() if number * flops_of(shape) >= least]

    def milliseconds(self, gflops: Mapping[Shape, float]) -> float:
        """Their time, by the 10⁹ operations per second of some shapes, or their mean for others."""
        known = {shape: self.wide[shape] * flops_of(shape) for shape in gflops}
        seconds = sum(flops / gflops[shape] for shape, flops in known.items()) / 1e9
        return 1000 * seconds * self.flops / sum(known.values())


def flops_of(shape: Shape) -> int:
    _, rows, outputs, inputs = shape
    return 2 * rows * outputs * inputs


class _Call(NamedTuple):
    """A call of a linear layer, or of one of several that are fused, with an adapter of some rank;
    whether the gradients of its input and of its weight are needed."""

    outputs: int
    inputs: int
    rank: int
    dx: bool
    dw: bool


def measure_products(
    model: nn.Module, batches: Sequence[Batch], amp: str, device: torch.device
) -> Columns:
    """The column `products_ms` for typical batches of a training, which changes nothing in the
    model; empty for a task of parts, whose steps are of several kinds, and where it can't be
    measured, since the training itself succeeded."""
    if batches[0].part:
        return {}
    try:
        products = required(model, batches, amp, device)
        speeds = measure_gflops(products.major, amp, device)
    except Exception:  # noqa: BLE001 (of many kinds, and none may cost a result)
        return {}
    if not speeds:
        return {}
    return {"products_ms": products.milliseconds(speeds) / _mean_tokens(batches) * 1000}


def required(
    model: nn.Module, batches: Sequence[Batch], amp: str, device: torch.device
) -> Products:
    """The products of a training step on a batch of the mean tokens and texts of some batches."""
    names = ("input_ids", "attention_mask", "token_type_ids", "labels")
    tensors = {name: getattr(batches[0], name) for name in names}
    first: dict[str, Any] = {n: None if t is None else t[:_TEXTS] for n, t in tensors.items()}
    few = replace(batches[0], **first)
    texts, padded = few.input_ids.shape[0], few.input_ids.numel()
    tokens = padded if few.attention_mask is None else int(few.attention_mask.sum())
    mean_texts = round(fmean(len(batch.labels) for batch in batches))
    products = Products()
    for call, positions, rows in _calls(model, few, amp, device):
        if positions in (texts, tokens, padded):  # else of no text, such as relative positions
            rows = mean_texts if rows <= texts else _mean_tokens(batches)
        products.add(call, rows)
    return products


def _mean_tokens(batches: Sequence[Batch]) -> int:
    return round(fmean(batch.tokens for batch in batches))


def _calls(
    model: nn.Module, batch: Batch, amp: str, device: torch.device
) -> Iterator[tuple[_Call, int, int]]:
    """The calls of linear layers in a forward pass, the rows of their outputs, and those on which
    the logits depend, if there are any; for these every output has a gradient in a second pass,
    without dropout, which would make some of it zero."""
    model.eval()
    layers = list(_linear_layers(model))
    calls: list[list[_Call]] = []
    outputs: list[Tensor] = []

    def observe(ranks: tuple[int, ...]) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            height, width = len(module.weight) // len(ranks), module.weight.shape[1]
            dx, dw = inputs[0].requires_grad, module.weight.requires_grad
            calls.append([_Call(height, width, rank, dx, dw) for rank in ranks])

        return hook

    def with_gradient(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        # cloned, as the model may change an output in place, but not a leaf
        return output if output.requires_grad else output.detach().requires_grad_().clone()

    def keep(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        outputs.append(with_gradient(module, inputs, output))
        return outputs[-1]

    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    with autocast(amp, device):
        with _hooks([(module, observe(ranks)) for module, ranks in layers]):
            logits_of(model, batch)
        second = [(module, keep) for module, _ in layers]
        with _hooks([*second, *((module, with_gradient) for module in embeddings)]):
            logits = logits_of(model, batch)
    weights = torch.linspace(1, 2, logits.numel(), device=device).view_as(logits)
    gradients = torch.autograd.grad((logits * weights).sum(), outputs, allow_unused=True)
    for parts, output, gradient in zip(calls, outputs, gradients, strict=True):
        if gradient is not None:
            for call, part in zip(parts, gradient.chunk(len(parts), dim=-1), strict=True):
                if rows := int(part.ne(0).any(dim=-1).sum()):
                    yield call, output[..., 0].numel(), rows


@contextmanager
def _hooks(hooks: Sequence[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    with ExitStack() as handles:
        for module, hook in hooks:
            handles.callback(module.register_forward_hook(hook).remove)
        yield


def _linear_layers(model: nn.Module) -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
    """The linear layers of a model that are not parts of adapters, and the ranks of the adapters on
    the parts of each; 0 without one. Fused query, key and value are three products, but one where
    PEFT's adapter has one A."""
    adapted = {f"{name}.": layer for name, layer in model.named_modules() if hasattr(layer, _BASE)}
    for name, module in model.named_modules():
        prefix = next((prefix for prefix in adapted if name.startswith(prefix)), None)
        if isinstance(module, AdaptedLinear):
            yield module, tuple(part.rank for part in module.parts)
        elif isinstance(module, nn.Linear) and prefix is None:
            yield module, (0, 0, 0) if name.lower().endswith(_FUSED) else (0,)
        elif isinstance(module, nn.Linear) and name == f"{prefix}{_BASE}":
            matrices: Any = getattr(adapted[prefix or ""], "lora_A", {})
            yield module, (sum(len(matrix.weight) for matrix in matrices.values()),)


def measure_gflops(shapes: Sequence[Shape], amp: str, device: torch.device) -> dict[Shape, float]:
    """10⁹ floating-point operations per second of each shape in the half precision of AMP, or in
    fp32: of the fastest repeat by the faster of torch's own kernel and that of
    `minbert.kernels.products`, as a limit is the best that can be reached."""
    dtype = HALF.get(amp, torch.float32)
    return {shape: _gflops(shape, dtype, device) for shape in shapes}


def random_matrices(
    *sizes: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    """Matrices of normally distributed numbers, the same in each call."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator).to(device, dtype) for size in sizes]


def _gflops(shape: Shape, dtype: torch.dtype, device: torch.device) -> float:
    kind, rows, outputs, inputs = shape
    sizes = (rows, inputs), (outputs, inputs), (rows, outputs)
    x, weight, gradient = random_matrices(*sizes, dtype=dtype, device=device)
    products: dict[str, tuple[Callable[[], Tensor], ...]] = {
        "forward": (lambda: F.linear(x, weight), lambda: times(x, weight)),  # [rows, outputs]
        "dx": (lambda: gradient @ weight, lambda: times(gradient, weight.t())),  # [rows, inputs]
        "dw": (lambda: gradient.t() @ x, lambda: times(gradient.t(), x.t())),  # [outputs, inputs]
    }
    return flops_of(shape) / min(_fastest_s(product, device) for product in products[kind]) / 1e9


def _fastest_s(run: Callable[[], Any], device: torch.device) -> float:
    timer, runs = (_on_gpu_s, _LAUNCHES) if device.type == "cuda" else (_on_cpu_s, 1)
    with torch.inference_mode():
        run()
        seconds: list[float] = []
        while len(seconds) < _MIN_REPEATS or sum(seconds) < _MIN_SECONDS:
            seconds.append(timer(run, runs))
    return max(min(seconds) / runs, 1e-9)


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
