"""The costs of a cell by count: memory of its tensors, products, bytes moved. Free of torch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, Self

from pydantic import ConfigDict, Field, TypeAdapter

from bench.plan.cell import ITERATIVE, Cell
from bench.plan.rows import Row
from minbert.training.quarters import QUARTERS

Shape = tuple[int, int]
"""The number of texts in a batch, and of tokens in the longest. A pair is one text if it is encoded
as one, else two."""


class Variant(NamedTuple):
    """The axes of a cell that decide its costs: all but learning rates and the seed."""

    mode: str
    rank: int | None
    layers: str | None
    amp: str
    unfreeze: str | None
    batch_size: int
    frozen_dtype: str | None

    @classmethod
    def of(cls, cell: Cell) -> Self:
        """The variant of a cell."""
        return cls(*(getattr(cell, name) for name in cls._fields))

    @classmethod
    def of_row(cls, row: Row) -> Self:
        """The variant of a row."""
        values: list[Any] = [row[name] for name in cls._fields]
        return cls(*values)

    @property
    def unfreezes(self) -> bool:
        """Whether layers are unfrozen one after the other."""
        return self.unfreeze == ITERATIVE


Points = Mapping[Variant, tuple[tuple[float, ...], float]]
"""The features and the measured value of each variant, in the order in which they ran."""

_EXACT: Final = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """The batches of a cell, or of one part of its task, padding included.

    `train` has the mean length, `…_largest` the most tokens; both are empty for a part without
    training batches. `train_tokens` counts all steps, `evaluate_tokens` one evaluation. An
    evaluation follows each epoch that is begun.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _EXACT

    train: Shape
    train_largest: Shape
    evaluate_largest: Shape
    steps: float
    steps_in_epoch: int
    train_tokens: float
    real_tokens: float
    evaluations: int
    evaluate_batches: int
    evaluate_tokens: float

    @property
    def train_batches(self) -> float:
        """The steps' tokens, in batches of mean length."""
        return self.train_tokens / math.prod(self.train) if self.train_tokens else 0.0

    @property
    def evaluate_batches_largest(self) -> float:
        """An evaluation's tokens, in batches of the largest shape."""
        return self.evaluate_tokens / math.prod(self.evaluate_largest)

    def to_count(self) -> list[Shape]:
        """The shapes that are run to count a variant."""
        return [self.train, self.train_largest, self.evaluate_largest]


ShapesOf = Mapping[str, Shapes]
"""Shapes by part of the task; a task without parts has the single part ""."""


def stages_of(variant: Variant, shapes: ShapesOf) -> int:
    """The number of unfreezing stages a cell reaches; 1 where all trains from the first epoch."""
    epochs = max(part.evaluations for part in shapes.values())
    return min(epochs, QUARTERS + 1) if variant.unfreezes else 1


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The costs of a variant in one part of the task and one stage of unfreezing.

    Memory is that of weights (buffers included), of gradients, of the optimizer's state, and
    everything alive at the peak of a step or an evaluation on the largest batch. Work is that of a
    step of mean length and of an evaluation's largest batch; a multiply-add counts as 2
    operations, and `moved` is everything that operators read and write.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _EXACT

    weights_mib: float
    gradients_mib: float
    optimizer_mib: float
    train_peak_mib: float
    evaluate_peak_mib: float
    step_gflop: float
    step_moved_mib: float
    step_kernels: float
    evaluate_gflop: float
    evaluate_moved_mib: float
    evaluate_kernels: float

    @property
    def peak_mib(self) -> float:
        """The most memory alive at once."""
        return max(self.train_peak_mib, self.evaluate_peak_mib)

    def towards(self, other: "Counts", share: float) -> "Counts":
        """Counts on the straight line from these to others."""
        end = asdict(other)
        return Counts(**{k: v + share * (end[k] - v) for k, v in asdict(self).items()})


CountsOf = Mapping[str, Sequence[Counts]]
"""Counts of a variant by part of the task: one for each stage of unfreezing."""


@dataclass(frozen=True)
class Costs:
    """Everything that was counted for a workload.

    `shapes` are by batch size. `imports_mib` is the memory of a worker that has imported its
    libraries and loaded nothing, by the column of its peak.
    """

    shapes: Mapping[int, ShapesOf]
    counts: Mapping[Variant, CountsOf]
    imports_mib: Mapping[str, float]


SHAPES: Final[TypeAdapter[ShapesOf]] = TypeAdapter(
    Annotated[dict[str, Shapes], Field(min_length=1)]
)
COUNTS: Final[TypeAdapter[CountsOf]] = TypeAdapter(
    Annotated[dict[str, Annotated[list[Counts], Field(min_length=1)]], Field(min_length=1)]
)
IMPORTS: Final[TypeAdapter[Any]] = TypeAdapter(
    Annotated[dict[Literal["peak_rss_mib", "peak_anon_mib"], float], Field(min_length=2)]
)
"""The formats in which costs are kept as JSON."""


def to_count(variants: Iterable[Variant]) -> list[Variant]:
    """The variants to count, from which the costs of all the given ones follow.

    Of ranks these are the lowest and the highest: all costs grow linearly with the rank, except
    that a peak may move to another place.
    """
    ranks: dict[Variant, list[int]] = {}
    for variant in variants:
        ranks.setdefault(variant._replace(rank=None), []).append(variant.rank or 0)
    ends = dict.fromkeys(
        kind._replace(rank=rank or None)
        for kind, of_kind in ranks.items()
        for rank in (min(of_kind), max(of_kind))
    )
    return list(ends)


def fill_ranks(
    counted: Mapping[Variant, CountsOf], variants: Iterable[Variant]
) -> dict[Variant, CountsOf]:
    """Counts of all variants from those of `to_count`."""
    filled: dict[Variant, CountsOf] = {}
    for variant in variants:
        if variant in counted:
            filled[variant] = counted[variant]
            continue
        kind, rank = variant._replace(rank=None), variant.rank or 0
        by_rank = {v.rank or 0: c for v, c in counted.items() if v._replace(rank=None) == kind}
        low = max((r for r in by_rank if r < rank), default=0)
        high = min((r for r in by_rank if r > rank), default=0)
        share = (rank - low) / (high - low)
        filled[variant] = {
            part: [a.towards(b, share) for a, b in zip(stages, by_rank[high][part], strict=True)]
            for part, stages in by_rank[low].items()
        }
    return filled
