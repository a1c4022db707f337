"""What a cell costs by count: memory of its tensors, products, bytes moved. Free of torch."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Self

from bench.cell import Cell
from bench.schema import Row, Value

Shape = tuple[int, int]
"""Texts in a batch, and tokens in its longest."""


class Variant(NamedTuple):
    """The axes of a cell that decide what it costs: all but the seed."""

    mode: str
    rank: int | None
    layers: str | None
    amp: str

    @classmethod
    def of(cls, cell: Cell) -> Self:
        """That of a cell."""
        return cls(cell.mode, cell.rank, cell.layers, cell.amp)

    @classmethod
    def of_row(cls, row: Row) -> Self:
        """That of a row."""
        rank, layers = row["rank"], row["layers"]
        return cls(
            str(row["mode"]),
            None if rank is None else int(rank),
            None if layers is None else str(layers),
            str(row["amp"]),
        )


def is_foretold(unfreeze: Value) -> bool:
    """Whether a cell is predicted: not where what trains changes from epoch to epoch."""
    return unfreeze in (None, "all")


Points = Mapping[Variant, tuple[tuple[float, ...], float]]
"""Features of each variant and what was measured of it, in the order in which they ran."""


class _Plain:
    """A dataclass of plain values that survives JSON."""

    def to_json(self) -> dict[str, Any]:
        """As an object."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    @classmethod
    def from_json(cls, values: object) -> Self | None:
        """The inverse of `to_json`; None for what can't have come from it."""
        names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        if not isinstance(values, dict) or values.keys() != names:
            return None
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


@dataclass(frozen=True, kw_only=True)
class Shapes(_Plain):
    """Batches of a cell, padding included.

    `train` has the mean length, `…_largest` the most tokens. Tokens are those of all steps, and of
    one evaluation.
    """

    train: Shape
    train_largest: Shape
    evaluate_largest: Shape
    steps: int
    train_tokens: float
    real_tokens: float
    evaluations: int
    evaluate_batches: int
    evaluate_tokens: float

    def to_count(self) -> list[Shape]:
        """What has to be known of the batches to count a variant."""
        return [self.train, self.train_largest, self.evaluate_largest]


@dataclass(frozen=True, kw_only=True)
class Counts(_Plain):
    """What was counted of a variant.

    Memory: of weights, buffers included, of gradients, of the optimizer's state, and all that is
    alive at the peak of a step or an evaluation on the largest batch. Work: of a step of mean
    length and of an evaluation's largest batch; products count 2 for each multiply-add, and
    `moved` is what all operators read and write.
    """

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
        """The most that is alive at once."""
        return max(self.train_peak_mib, self.evaluate_peak_mib)

    def towards(self, other: "Counts", share: float) -> "Counts":
        """Counts on the straight line to another's."""
        ends = asdict(self), asdict(other)
        return Counts(**{k: v + share * (ends[1][k] - v) for k, v in ends[0].items()})


@dataclass(frozen=True)
class Costs:
    """What was counted of a workload.

    `imports_mib` is what a worker holds before it has loaded anything, by the name of the column
    of its peak.
    """

    shapes: Shapes
    counts: Mapping[Variant, Counts]
    imports_mib: Mapping[str, float]


def to_count(variants: Iterable[Variant]) -> list[Variant]:
    """The variants that have to be counted for all of some to be known.

    Of ranks those are the lowest and the highest: everything that is counted grows linearly with
    the rank, save that a peak may move to another place.
    """
    ranks: dict[Variant, list[int]] = {}
    for variant in variants:
        ranks.setdefault(variant._replace(rank=None), []).append(variant.rank or 0)
    found = dict.fromkeys(
        kind._replace(rank=rank or None)
        for kind, of in ranks.items()
        for rank in (min(of), max(of))
    )
    return list(found)


def fill_ranks(
    counted: Mapping[Variant, Counts], variants: Iterable[Variant]
) -> dict[Variant, Counts]:
    """Counts of all of some variants from those of `to_count`."""
    found = {}
    for variant in variants:
        if variant in counted:
            found[variant] = counted[variant]
            continue
        kind, rank = variant._replace(rank=None), variant.rank or 0
        of = {v.rank or 0: c for v, c in counted.items() if v._replace(rank=None) == kind}
        low = max((r for r in of if r < rank), default=0)
        high = min((r for r in of if r > rank), default=0)
        share = (rank - low) / (high - low)
        found[variant] = of[low].towards(of[high], share)
    return found


def batches_of(tokens: float, shape: Shape) -> float:
    """As how many batches of a shape some tokens count."""
    return tokens / math.prod(shape)
