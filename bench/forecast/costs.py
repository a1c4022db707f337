"""The costs of cells as counts of memory, products and bytes moved. Free of torch."""

import math
from collections import namedtuple
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bench.common.grouping import grouped
from bench.plan.cell import ITERATIVE, Cell, named
from minbert.training.schedules import QUARTERS

Size = tuple[int, int, int]
"""The examples in a batch, the length to which texts are cut, and the batches in a step."""
Shape = tuple[int, int]
"""The number of texts in a batch, and of tokens in the longest. A pair is one text if it is encoded
as one, else two."""


_tuple: Any = namedtuple  # its fields are not literal


class Variant(_tuple("_Counted", named(lambda about: about.counted))):  # type: ignore[misc]
    """The settings that decide a cell's costs, of which one forecast has several values."""

    @classmethod
    def of(cls, cell: Cell) -> Self:
        """The variant of a cell, or of a row, which is one."""
        return cls(*(getattr(cell, name) for name in cls._fields))

    @property
    def size(self) -> Size:
        return self.batch_size, self.max_length, self.gradient_accumulation_steps

    @property
    def unfreezes(self) -> bool:
        return bool(self.unfreeze == ITERATIVE)


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """The batches of a cell, or of one part of its task, padding included. `train` has the mean
    length, `…_largest` the most tokens; both are empty for a part without training batches. A step
    is one of the optimizer, on `accumulated` batches. `train_tokens` counts all steps,
    `evaluate_tokens` one evaluation. An evaluation follows each epoch that is begun."""

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
    accumulated: int = 1


ShapesOf = Mapping[str, Shapes]
"""Shapes by part of the task; a task without parts has the single part ""."""


class Load(NamedTuple):
    """Operators run, GFLOP of products (a multiply-add is 2 operations), MiB read and written."""

    kernels: float
    gflop: float
    moved_mib: float


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The costs of a variant in one part of the task and one stage of unfreezing. Memory is that of
    weights (buffers included), of the optimizer's state, and everything alive at the peak of a step
    or an evaluation on the largest batch. Work is that of a step of mean length and of an
    evaluation's largest batch."""

    weights_mib: float
    optimizer_mib: float
    train_peak_mib: float
    evaluate_peak_mib: float
    step: Load
    evaluation: Load

    @property
    def peak_mib(self) -> float:
        return max(self.train_peak_mib, self.evaluate_peak_mib)


CountsOf = Mapping[str, Sequence[Counts]]
"""Counts of a variant by part of the task: one for each stage of unfreezing."""


class Totals(NamedTuple):
    """Memory of a cell at its peak, and its work.

    `lasting_mib` is that of weights and the optimizer's state, `passing_mib` everything else at the
    peak. `real_tokens` are those of all steps, without padding; `epochs` are those that are begun.
    `train` is the work of all steps, `timed` that of as many steps of the last unfreezing stage,
    whose steps are timed (the same where nothing unfreezes), and `evaluate` that of all
    evaluations. `imports_mib` is the memory of a worker that has only imported its libraries.
    """

    lasting_mib: float
    passing_mib: float
    steps: float
    real_tokens: float
    train: Load
    timed: Load
    evaluate: Load
    epochs: float
    imports_mib: float = 0.0


class Formulae(NamedTuple):
    """What a step and an evaluation of a variant take, by coefficients of `terms`: powers of the
    batch size and of the length.

    Every size in a step is a constant times such powers. So the memory of a moment is a sum of such
    terms, and the peak, which grows with both, is the largest of some moments. `moments` has the
    MiB of gradients, of activations, which the forward pass keeps for the backward pass, and of
    other tensors, [M, 3, T], at each of these. Work is that of a batch.
    """

    weights_mib: float
    optimizer_mib: float
    terms: Sequence[tuple[int, int]]
    moments: Sequence[Sequence[Sequence[float]]]
    kernels: float
    gflop: Sequence[float]
    moved_mib: Sequence[float]
    imports_mib: float = 0.0
    mapped_mib: float = 0.0  # of the imports, in files

    def _powers(self, batch: float, length: float) -> NDArray[np.float64]:
        return np.array([float(batch) ** b * float(length) ** n for b, n in self.terms])

    def tensors_mib(self, batch: float, length: float) -> tuple[float, float, float]:
        """Gradients, activations and other tensors at the peak."""
        moments = np.asarray(self.moments) @ self._powers(batch, length)
        gradients, activations, others = map(float, moments[moments.sum(axis=1).argmax()])
        return gradients, activations, others

    def load(self, batch: float, length: float) -> Load:
        powers = self._powers(batch, length)
        return Load(self.kernels, float(powers @ self.gflop), float(powers @ self.moved_mib))


def totals_of(shapes: ShapesOf, counts: CountsOf) -> Totals:
    """The costs of a cell over all its parts and stages of unfreezing. The number of operators
    follows the number of batches, other work that of their tokens."""
    train, timed, evaluate = np.zeros(3), np.zeros(3), np.zeros(3)
    for part, batches in shapes.items():
        stages = counts[part]
        in_step = batches.accumulated * math.prod(batches.train)
        full = batches.train_tokens / in_step if batches.train_tokens else 0.0
        loads = [np.array([batches.steps, full, full]) * stage.step for stage in stages]
        shares = stage_shares(shapes, len(stages))
        train += sum(share * load for share, load in zip(shares, loads, strict=True))
        timed += loads[-1]
        largest = batches.evaluate_tokens / math.prod(batches.evaluate_largest)
        evaluated = np.array([batches.evaluate_batches, largest, largest])
        evaluate += batches.evaluations * evaluated * stages[-1].evaluation
    most = max((count for stages in counts.values() for count in stages), key=lambda c: c.peak_mib)
    lasting = most.weights_mib + most.optimizer_mib
    steps = sum(part.steps for part in shapes.values())
    tokens = sum(part.real_tokens for part in shapes.values())
    of_train, of_timed, of_evaluate = (Load(*work.tolist()) for work in (train, timed, evaluate))
    return Totals(
        lasting, most.peak_mib - lasting, steps, tokens, of_train, of_timed, of_evaluate,
        float(_epochs(shapes)),
    )  # fmt: skip


def stages_of(variant: Variant, shapes: ShapesOf) -> int:
    """The number of unfreezing stages a cell reaches; 1 where all trains from the first epoch."""
    return min(_epochs(shapes), QUARTERS + 1) if variant.unfreezes else 1


def _epochs(shapes: ShapesOf) -> int:
    return max(part.evaluations for part in shapes.values())


def stage_shares(shapes: ShapesOf, stages: int) -> list[float]:
    """The share of all steps in each stage of unfreezing: an epoch each, the last all others."""
    steps = sum(part.steps for part in shapes.values())
    epoch = sum(part.steps_in_epoch for part in shapes.values()) / steps
    return [epoch] * (stages - 1) + [1 - epoch * (stages - 1)]


def to_count(variants: Iterable[Variant]) -> list[Variant]:
    """The variants to count, from which the costs of all the given ones follow. Of ranks these are
    the lowest and the highest: all costs grow linearly with the rank, except that a peak may move
    to another place."""
    by_kind = _by_kind(variants).values()
    return sorted({end for kind in by_kind for end in (kind[0], kind[-1])}, key=str)


def fill_ranks(
    counted: Mapping[Variant, Totals], variants: Iterable[Variant]
) -> dict[Variant, Totals]:
    """Totals of all variants from those of `to_count`, as far as these could be counted."""
    ends, filled = _by_kind(counted), dict(counted)
    for variant in variants:
        low, *others = ends.get(variant._replace(rank=None), [variant])
        if variant in filled or not others:
            continue
        (high,) = others
        share = (_rank(variant) - _rank(low)) / (_rank(high) - _rank(low))
        filled[variant] = _between(counted[low], counted[high], share)
    return filled


def _between(low: Any, high: Any, share: float) -> Any:
    """A number, or a tuple of numbers and tuples, that is a share of the way between two."""
    if isinstance(low, tuple):
        pairs = zip(low, high, strict=True)
        return type(low)(*(_between(start, end, share) for start, end in pairs))
    return low + share * (high - low)


def _by_kind(variants: Iterable[Variant]) -> dict[Variant, list[Variant]]:
    return grouped(sorted(variants, key=_rank), lambda variant: variant._replace(rank=None))


def _rank(variant: Variant) -> int:
    return variant.rank or 0
