"""A lower bound on the time of a training step: the matrix products that no implementation can
leave out, at their measured speeds.

Pure. A product of an [m, k] and a [k, n] matrix is 2 m n k floating-point operations. A mode,
layer set and pooling require these products, on real tokens:

- the forward product of each weight; if the pooling reads only [CLS], the last layer's query,
  attention output and feed-forward only at [CLS];
- dX, the gradient of a layer's input, only above the lowest trained part;
- dW, the gradient of a weight, only if the weight trains;
- for an adapter, X Aᵀ, P = G B, dA = Pᵀ X and dB = Gᵀ (X Aᵀ), and the update itself either merged
  into the weight, 2 o i r, or as a branch, whichever is less.

Attention's own products, norms, activations, dropout and the optimizer are not counted, so no
implementation reaches the limit.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from adapters.names import adapted_layers, trains_base
from bench.plan.cell import Cell
from minbert.model.config import BertConfig

KINDS: Final = ("forward", "dx", "dw")
_INPUTS: Final = ("attention.self.query", "attention.self.key", "attention.self.value")
_ALL_TOKENS: Final = ("attention.self.key", "attention.self.value")
"""Layers whose output at every token is needed even if only [CLS] is read."""

Shape = tuple[str, int, int, int]
"""Kind, rows, outputs and inputs of a product."""


@dataclass(frozen=True)
class Work:
    """Training on one batch: the parts that train, and the batch's size.

    Attributes:
        tokens, texts: real tokens and texts of the batch.
    """

    mode: str
    layers: str | None
    rank: int | None
    pooling: str
    new_pooler: bool
    num_outputs: int
    tokens: int
    texts: int

    @property
    def base_trains(self) -> bool:
        """Whether embeddings and all other weights without adapters train."""
        return self.mode == "full" or (self.layers is not None and trains_base(self.layers))


def work_of(
    cell: Cell,
    num_outputs: int,
    new_pooler: bool,
    tokens: Sequence[int],
    texts: Sequence[int],
) -> Work:
    """The work of a cell on a mean batch, from the real tokens and texts of each batch."""
    return Work(
        mode=cell.mode,
        layers=cell.layers,
        rank=cell.rank,
        pooling=cell.pooling,
        new_pooler=new_pooler,
        num_outputs=num_outputs,
        tokens=round(sum(tokens) / len(tokens)),
        texts=round(sum(texts) / len(texts)),
    )


@dataclass(frozen=True)
class Product:
    """A product of a step: `rows` tokens or texts, and the weight's outputs and inputs.

    `thin` products (of adapters and the head) are not measured: the mean speed of the others is
    assumed.
    """

    kind: str
    rows: int
    outputs: int
    inputs: int
    thin: bool = False

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.outputs * self.inputs

    @property
    def shape(self) -> Shape:
        """The key of its measured speed."""
        return self.kind, self.rows, self.outputs, self.inputs


def required(config: BertConfig, work: Work) -> list[Product]:
    """The products that a training step can't leave out."""
    return list(_products(config, work))


def _products(config: BertConfig, work: Work) -> Iterator[Product]:
    hidden, wide = config.hidden_size, config.intermediate_size
    sizes = {
        **dict.fromkeys((*_INPUTS, "attention.output.dense"), (hidden, hidden)),
        "intermediate.dense": (wide, hidden),
        "output.dense": (hidden, wide),
    }  # outputs, inputs
    adapted = adapted_layers(work.layers) if work.layers else ()
    below = work.base_trains
    for layer in range(config.num_hidden_layers):
        cls_only = work.pooling == "pooler" and layer == config.num_hidden_layers - 1
        under_inputs = below
        for name, (outputs, inputs) in sizes.items():
            rows = work.texts if cls_only and name not in _ALL_TOKENS else work.tokens
            dx = under_inputs if name in _INPUTS else below
            yield from _linear(
                rows, outputs, inputs, dx=dx, dw=work.base_trains and name not in adapted
            )
            if name in adapted and work.rank is not None:
                yield from _adapter(rows, outputs, inputs, work.rank, dx=dx)
            below = below or name in adapted
    if work.pooling == "pooler":
        trains = work.base_trains or work.new_pooler
        yield from _linear(work.texts, hidden, hidden, dx=below, dw=trains)
        below = below or trains
    yield from _linear(work.texts, work.num_outputs, hidden, dx=below, dw=True, thin=True)


def _linear(
    rows: int, outputs: int, inputs: int, *, dx: bool, dw: bool, thin: bool = False
) -> Iterator[Product]:
    for kind, needed in zip(KINDS, (True, dx, dw), strict=True):
        if needed:
            yield Product(kind, rows, outputs, inputs, thin)


def _adapter(rows: int, outputs: int, inputs: int, rank: int, *, dx: bool) -> Iterator[Product]:
    yield Product("forward", rows, rank, inputs, thin=True)  # X Aᵀ
    yield Product("dx", rows, outputs, rank, thin=True)  # P = G B
    yield Product("dw", rows, rank, inputs, thin=True)  # dA
    yield Product("dw", rows, outputs, rank, thin=True)  # dB
    branch = [Product("forward", rows, outputs, rank, thin=True)]  # (X Aᵀ) Bᵀ
    branch += [Product("dx", rows, rank, inputs, thin=True)] if dx else []  # P A
    merged = Product("forward", outputs, inputs, rank, thin=True)  # W + s B A
    merges = merged.flops < sum(product.flops for product in branch)
    yield from [merged] if merges else branch


def shapes(products: Sequence[Product]) -> list[Shape]:
    """The distinct shapes to measure."""
    return list(dict.fromkeys(product.shape for product in products if not product.thin))


def gflop(products: Sequence[Product]) -> float:
    """The total of some products, in 10⁹ floating-point operations."""
    return sum(product.flops for product in products) / 1e9


def limit_ms(products: Sequence[Product], gflops: Mapping[Shape, float]) -> float:
    """The time of some products at measured speeds, in ms.

    Args:
        gflops: 10⁹ floating-point operations per second, by shape.
    """
    wide = [product for product in products if not product.thin]
    wide_s = sum(product.flops / gflops[product.shape] for product in wide) / 1e9
    wide_flops = sum(product.flops for product in wide)
    thin_flops = sum(product.flops for product in products if product.thin)
    return 1000 * wide_s * (wide_flops + thin_flops) / wide_flops


def mean_gflops(products: Sequence[Product], gflops: Mapping[Shape, float]) -> float:
    """The mean speed of some products, in 10⁹ operations per second."""
    return gflop(products) / limit_ms(products, gflops) * 1000
