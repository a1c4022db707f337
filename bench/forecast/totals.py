"""The costs of a cell by count, over all its steps. Free of torch.

Counts are made for each part of the task and each stage of unfreezing, and added up here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from bench.forecast.costs import CountsOf, ShapesOf


class Load(NamedTuple):
    """Work: operators run, GFLOP of products, and MiB read and written."""

    kernels: float
    gflop: float
    moved_mib: float


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Memory of a cell at its peak, and its work.

    Attributes:
        lasting_mib: weights and the optimizer's state.
        passing_mib: everything else at the peak.
        train: the work of all steps.
        timed: the work of as many steps of the last unfreezing stage, whose steps are timed; equal
            to `train` where nothing unfreezes.
        evaluate: the work of all evaluations.
        steps: the number of steps.
        real_tokens: tokens of all steps, without padding.
    """

    lasting_mib: float
    passing_mib: float
    train: Load
    timed: Load
    evaluate: Load
    steps: float
    real_tokens: float


def totals_of(shapes: ShapesOf, counts: CountsOf) -> Totals:
    """The costs of a cell.

    Args:
        shapes: of its batches, by part.
        counts: of its variant, by part and stage.
    """
    train: list[Load] = []
    timed: list[Load] = []
    evaluate: list[Load] = []
    for part, batches in shapes.items():
        stages = counts[part]
        loads = [
            Load(
                batches.steps * stage.step_kernels,
                batches.train_batches * stage.step_gflop,
                batches.train_batches * stage.step_moved_mib,
            )
            for stage in stages
        ]
        train += [
            Load(*(share * value for value in load))
            for share, load in zip(stage_shares(shapes, len(stages)), loads, strict=True)
        ]
        timed.append(loads[-1])
        largest, last = batches.evaluations * batches.evaluate_batches_largest, stages[-1]
        evaluate.append(
            Load(
                batches.evaluations * batches.evaluate_batches * last.evaluate_kernels,
                largest * last.evaluate_gflop,
                largest * last.evaluate_moved_mib,
            )
        )
    most = max((count for stages in counts.values() for count in stages), key=lambda c: c.peak_mib)
    lasting = most.weights_mib + most.optimizer_mib
    return Totals(
        lasting_mib=lasting,
        passing_mib=most.peak_mib - lasting,
        train=_sum(train),
        timed=_sum(timed),
        evaluate=_sum(evaluate),
        steps=sum(part.steps for part in shapes.values()),
        real_tokens=sum(part.real_tokens for part in shapes.values()),
    )


def stage_shares(shapes: ShapesOf, stages: int) -> list[float]:
    """The share of all steps in each stage of unfreezing.

    Each stage is one epoch; the last one lasts to the end.
    """
    steps = sum(part.steps for part in shapes.values())
    epoch = sum(part.steps_in_epoch for part in shapes.values()) / steps
    return [epoch] * (stages - 1) + [1 - epoch * (stages - 1)]


def _sum(loads: Iterable[Load]) -> Load:
    return Load(*map(sum, zip(*loads, strict=True)))
