"""What a cell costs by count: memory of its tensors, products, bytes moved. Free of torch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Self

from bench.plan.cell import ITERATIVE, Cell, Row
from minbert.training.quarters import QUARTERS

Shape = tuple[int, int]
"""Texts in a batch, each text of a pair that stands by itself as one, and tokens in the longest."""


class Variant(NamedTuple):
    """The axes of a cell that decide what it costs: all but rates and the seed."""

    mode: str
    rank: int | None
    layers: str | None
    amp: str
    unfreeze: str | None
    batch_size: int
    frozen_dtype: str | None

    @classmethod
    def of(cls, cell: Cell) -> Self:
        """That of a cell."""
        return cls(*(getattr(cell, name) for name in cls._fields))

    @classmethod
    def of_row(cls, row: Row) -> Self:
        """That of a row."""
        rank, layers, unfreeze = row["rank"], row["layers"], row["unfreeze"]
        frozen_dtype = row["frozen_dtype"]
        return cls(
            str(row["mode"]),
            None if rank is None else int(rank),
            None if layers is None else str(layers),
            str(row["amp"]),
            None if unfreeze is None else str(unfreeze),
            int(row["batch_size"] or 0),
            None if frozen_dtype is None else str(frozen_dtype),
        )

    @property
    def unfreezes(self) -> bool:
        """Whether layers are unfrozen one after the other."""
        return self.unfreeze == ITERATIVE


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
    """Batches of a cell, or of a part of its task, padding included.

    `train` has the mean length, `…_largest` the most tokens; of a part of which no batch comes
    they are empty. Tokens are those of all steps, and of one evaluation. There is an evaluation
    after each epoch that is begun.
    """

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
        """As how many batches of mean length all steps count."""
        return self.train_tokens / math.prod(self.train) if self.train_tokens else 0.0

    @property
    def evaluate_batches_largest(self) -> float:
        """As how many of the largest batch an evaluation counts."""
        return self.evaluate_tokens / math.prod(self.evaluate_largest)

    def to_count(self) -> list[Shape]:
        """What has to be known of the batches to count a variant."""
        return [self.train, self.train_largest, self.evaluate_largest]


ShapesOf = Mapping[str, Shapes]
"""By part of the task, "" where it has none."""


def stages_of(variant: Variant, shapes: ShapesOf) -> int:
    """How many stages of unfreezing a cell comes to; 1 where all trains from the first epoch."""
    epochs = max(of.evaluations for of in shapes.values())
    return min(epochs, QUARTERS + 1) if variant.unfreezes else 1


@dataclass(frozen=True, kw_only=True)
class Counts(_Plain):
    """What was counted of a variant, of one part of the task and in one stage of unfreezing.

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


CountsOf = Mapping[str, Sequence[Counts]]
"""Of a variant, by part of the task; of each part a stage of unfreezing after the other."""


@dataclass(frozen=True)
class Costs:
    """What was counted of a workload.

    `shapes` are by batch size. `imports_mib` is what a worker holds before it has loaded anything,
    by the name of the column of its peak.
    """

    shapes: Mapping[int, ShapesOf]
    counts: Mapping[Variant, CountsOf]
    imports_mib: Mapping[str, float]


def shapes_to_json(shapes: ShapesOf) -> dict[str, Any]:
    """Shapes by part as an object."""
    return {part: of.to_json() for part, of in shapes.items()}


def shapes_from_json(values: object) -> ShapesOf | None:
    """The inverse of `shapes_to_json`; None for what can't have come from it."""
    if not isinstance(values, dict):
        return None
    found: dict[str, Shapes] = {}
    for part, of in values.items():
        shapes = Shapes.from_json(of)
        if shapes is None:
            return None
        found[str(part)] = shapes
    return found or None


def counts_to_json(counts: CountsOf) -> dict[str, Any]:
    """Counts by part and stage as an object."""
    return {part: [of.to_json() for of in stages] for part, stages in counts.items()}


def counts_from_json(values: object) -> CountsOf | None:
    """The inverse of `counts_to_json`; None for what can't have come from it."""
    if not isinstance(values, dict):
        return None
    found: dict[str, list[Counts]] = {}
    for part, stages in values.items():
        if not isinstance(stages, list) or not stages:
            return None
        counts = [of for each in stages if (of := Counts.from_json(each)) is not None]
        if len(counts) < len(stages):
            return None
        found[str(part)] = counts
    return found or None


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
    counted: Mapping[Variant, CountsOf], variants: Iterable[Variant]
) -> dict[Variant, CountsOf]:
    """Counts of all of some variants from those of `to_count`."""
    found: dict[Variant, CountsOf] = {}
    for variant in variants:
        if variant in counted:
            found[variant] = counted[variant]
            continue
        kind, rank = variant._replace(rank=None), variant.rank or 0
        of = {v.rank or 0: c for v, c in counted.items() if v._replace(rank=None) == kind}
        low = max((r for r in of if r < rank), default=0)
        high = min((r for r in of if r > rank), default=0)
        share = (rank - low) / (high - low)
        found[variant] = {
            part: [a.towards(b, share) for a, b in zip(stages, of[high][part], strict=True)]
            for part, stages in of[low].items()
        }
    return found
