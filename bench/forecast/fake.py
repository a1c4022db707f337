"""Counts the costs of a variant by running its steps and evaluations on fake tensors."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.common.messages import one_line
from bench.engines.engine import engine_of, parts_of, task_of
from bench.forecast.costs import Counts, Load, Shape, Shapes, ShapesOf, Variant, stages_of
from bench.plan.cell import FAST, TRANSFORMERS, Cell
from bench.plan.job import Job
from bench.worker.probes.counting import Counter, Work
from bench.worker.setup import losses_of, unfreezing
from minbert.data.batches import Batch
from minbert.kernels.reference import kernels
from minbert.model.classifier import Classifier
from minbert.training.losses import CROSS_ENTROPY, MULTI_LABEL, REGRESSION, WORDS, kind_of
from minbert.training.optimizer import ParameterGroup
from minbert.training.schedules import schedule_of
from minbert.training.trainer import Trainer, autocast, logits_of

_MIB: Final = 2**20
_GFLOP: Final = 1e9


class UncountableError(Exception):
    """A model can't be run on tensors without values. The message is one line."""


def count(job: Job, shapes: ShapesOf, variant: Variant) -> dict[str, list[Counts]]:
    """Counts of a variant by part of the task, for each unfreezing stage in order, from the code
    that trains it, run on tensors without data; the job is of any cell that agrees with the variant
    in all else. UncountableError if the model of another library asks for values."""
    job = replace(job, cell=replace(job.cell, **variant._asdict()))
    model = engine_of(job.cell).skeleton(job)
    with (
        countable(job.cell), FakeTensorMode(), kernels(job.cell.kernels or FAST),
        Counter() as counter,
    ):  # fmt: skip
        fill(model, torch.device(job.device))
        return run(model, job, shapes, counter)


@contextmanager
def countable(cell: Cell) -> Iterator[None]:
    """Turns any error of another library's model into an UncountableError."""
    try:
        yield
    except Exception as error:
        if cell.engine != TRANSFORMERS:
            raise
        why = one_line(str(error))[:100]
        raise UncountableError(f"{cell.model} can't run without values ({why})") from error


def fill(model: nn.Module, device: torch.device) -> None:
    """Give every parameter and buffer a storage, without values."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            setattr(module, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))


def run(model: Classifier, job: Job, shapes: ShapesOf, counter: Counter) -> dict[str, list[Counts]]:
    """Run steps and evaluations of each part in each stage, as `count`; the model was filled while
    the counter was active. A part without training batches is evaluated all the same. The optimizer
    is AdamW for all: the others keep as much state, and need values that fake tensors don't
    have."""
    cell, trainer = job.cell, trainer_of(model, job)
    gradual = unfreezing(model, cell)
    keeps_best = cell.early_stopping is not None and trainer.device.type == "cpu"
    steps = _Steps(trainer, model, counter, _mib(trainer.parameters) if keeps_best else 0.0)
    counted: dict[str, list[Counts]] = {part: [] for part in shapes}
    for stage in range(stages_of(Variant.of(cell), shapes)):
        if gradual is not None:
            gradual.begin(stage)
        for part, counts in steps.count_stage(shapes).items():
            counted[part].append(counts)
    return counted


def trainer_of(model: Classifier, job: Job) -> Trainer:
    cell = job.cell
    groups = engine_of(cell).parameter_groups(model)
    return Trainer(
        model,
        [ParameterGroup(tuple(group.values()), 1e-3, 0.01) for group in groups.values()],
        losses=losses_of(task_of(job), parts_of(cell), cell.regression_loss),
        schedule=schedule_of("linear", 2, 0.0),
        amp=cell.amp,
        device=torch.device(job.device),
    )


@dataclass(frozen=True)
class _Steps:
    """Counted steps and evaluations, while `copied` MiB of trained weights exist once more."""

    trainer: Trainer
    model: Classifier
    counter: Counter
    copied: float

    def count_stage(self, shapes: ShapesOf) -> dict[str, Counts]:
        """Run two steps and one evaluation batch of each part. The first step has mean length and
        gives the work; it also creates the optimizer's state, which exists in all later steps. The
        second has the largest batch and gives the peak. The evaluation runs while the last step's
        gradients still exist, as in a cell."""
        trained = {part: batches for part, batches in shapes.items() if batches.steps}
        work = {part: self._work_of_step(part, batches) for part, batches in trained.items()}
        peaks: dict[str, int] = {}
        for part, batches in trained.items():
            self.counter.restart_peak()
            # from the second batch of a step on, gradients and activations exist at once
            self._train(part, batches.train_largest, min(2, batches.accumulated))
            peaks[part] = self.counter.peak
        weights = _mib([*self.model.parameters(), *self.model.buffers()]) + self.copied
        states = [*self.trainer.optimizer.state.values()]
        state = _mib(v for values in states for v in values.values() if isinstance(v, Tensor))
        counts = {}
        for part, batches in shapes.items():
            self.counter.restart_peak()
            evaluation = self._evaluate(part, batches.evaluate_largest)
            counts[part] = Counts(
                weights_mib=weights,
                optimizer_mib=state,
                train_peak_mib=peaks.get(part, 0) / _MIB + self.copied,
                evaluate_peak_mib=self.counter.peak / _MIB + self.copied,
                step=_load(work.get(part, Work())),
                evaluation=_load(evaluation),
            )
        return counts

    def _work_of_step(self, part: str, batches: Shapes) -> Work:
        """The work of a step of mean length; from the third batch on, each adds the same."""
        counts = range(1, min(batches.accumulated, 3) + 1)
        works = [self._train(part, batches.train, count) for count in counts]
        if len(works) < 3:
            return works[-1]
        _, two, three = works
        times = batches.accumulated - 2
        return Work(*(now + times * (later - now) for now, later in zip(two, three, strict=True)))

    def _train(self, part: str, shape: Shape, count: int) -> Work:
        batch = batch_of(self.model, self.trainer, part, shape)
        before = self.counter.work
        self.trainer.step(*[batch] * count)
        return self.counter.work.minus(before)

    def _evaluate(self, part: str, shape: Shape) -> Work:
        before = self.counter.work
        evaluate(self.model, self.trainer, part, shape)
        return self.counter.work.minus(before)


@torch.no_grad()
def evaluate(model: Classifier, trainer: Trainer, part: str, shape: Shape) -> None:
    model.eval()
    batch = batch_of(model, trainer, part, shape, CROSS_ENTROPY)
    with autocast(trainer.amp, trainer.device):
        logits = logits_of(model, batch)
    logits.float()
    model.train()


def batch_of(
    model: Classifier, trainer: Trainer, part: str, shape: Shape, loss: str | None = None
) -> Batch:
    """A batch of a shape, with labels for a loss, or for that of the part. Pairs whose texts are
    encoded separately have a label for two texts."""
    loss = kind_of(loss or trainer.losses[part])
    head, device = model.heads[part], trainer.device
    count = shape[0] // 2 if head.pairs else shape[0]
    dtype = torch.float32 if loss in (*REGRESSION, MULTI_LABEL) else torch.int64
    wide = {MULTI_LABEL: (count, head.outputs), WORDS: shape}
    ids = torch.zeros(shape, dtype=torch.int64, device=device)
    return Batch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        token_type_ids=None if part else torch.zeros_like(ids),
        labels=torch.zeros(wide.get(loss, (count,)), dtype=dtype, device=device),
        tokens=ids.numel(),
        part=part,
    )


def _load(work: Work) -> Load:
    return Load(work.kernels, work.flops / _GFLOP, work.moved / _MIB)


def _mib(tensors: Iterable[Tensor]) -> float:
    return sum(tensor.nbytes for tensor in tensors) / _MIB
