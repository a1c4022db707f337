"""What a cell costs by count over all its steps, whatever their kinds. Free of torch.

A step is of a part of the task, where it has any, and in a stage of unfreezing, where layers are
unfrozen one after the other. Parts and stages are counted by themselves, and added up here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from bench.forecast.costs import CountsOf, ShapesOf


class Load(NamedTuple):
    """Work: operators run, products in GFLOP, and MiB that are read and written."""

    kernels: float
    gflop: float
    moved_mib: float


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Memory of a cell at its peak, and its work.

    Attributes:
        lasting_mib: weights and the optimizer's state.
        passing_mib: what comes and goes beside them.
        train: of all steps.
        timed: of as many steps, if all were of the last stage, whose steps are timed; as `train`
            where nothing unfreezes.
        evaluate: of all evaluations.
        steps: how many there are.
        real_tokens: of all steps, padding not counted.
    """

    lasting_mib: float
    passing_mib: float
    train: Load
    timed: Load
    evaluate: Load
    steps: float
    real_tokens: float


def totals_of(shapes: ShapesOf, counts: CountsOf) -> Totals:
    """Everything that a cell costs.

    Args:
        shapes: of its batches, by part.
        counts: those of its variant, by part and stage.
    """
    train: list[Load] = []
    timed: list[Load] = []
    evaluate: list[Load] = []
    for part, of in shapes.items():
        stages = counts[part]
        loads = [
            Load(
                of.steps * each.step_kernels,
                of.train_batches * each.step_gflop,
                of.train_batches * each.step_moved_mib,
            )
            for each in stages
        ]
        train += [
            Load(*(share * value for value in load))
            for share, load in zip(stage_shares(shapes, len(stages)), loads, strict=True)
        ]
        timed.append(loads[-1])
        batches, last = of.evaluations * of.evaluate_batches_largest, stages[-1]
        evaluate.append(
            Load(
                of.evaluations * of.evaluate_batches * last.evaluate_kernels,
                batches * last.evaluate_gflop,
                batches * last.evaluate_moved_mib,
            )
        )
    most = max((each for stages in counts.values() for each in stages), key=lambda c: c.peak_mib)
    lasting = most.weights_mib + most.optimizer_mib
    return Totals(
        lasting_mib=lasting,
        passing_mib=most.peak_mib - lasting,
        train=_sum(train),
        timed=_sum(timed),
        evaluate=_sum(evaluate),
        steps=sum(of.steps for of in shapes.values()),
        real_tokens=sum(of.real_tokens for of in shapes.values()),
    )


def stage_shares(shapes: ShapesOf, stages: int) -> list[float]:
    """Of all steps the share that is taken in each stage of unfreezing.

    A stage is an epoch, and the last one all that follow.
    """
    steps = sum(of.steps for of in shapes.values())
    each = sum(of.steps_in_epoch for of in shapes.values()) / steps
    return [each] * (stages - 1) + [1 - each * (stages - 1)]


def _sum(loads: Iterable[Load]) -> Load:
    return Load(*(sum(of) for of in zip(*loads, strict=True)))
