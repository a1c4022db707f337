"""Counts the costs of a variant by running its steps and evaluations on fake tensors, of the shapes
that its batches have by the lengths of its texts."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.common.grouping import grouped
from bench.common.messages import one_line
from bench.engines.engine import engine_of, parts_of, task_of
from bench.forecast.costs import Counts, Load, Shape, Shapes, ShapesOf, Size, Variant, stages_of
from bench.plan.cell import FAST, TRANSFORMERS, Cell
from bench.plan.job import Job
from bench.worker.probes.counting import Counter, Work
from bench.worker.setup import examples, losses_of, unfreezing, without_held_out
from minbert.data.batches import Batch, plan_epoch, plan_evaluation
from minbert.kernels.reference import kernels
from minbert.model.classifier import Classifier
from minbert.training.losses import CROSS_ENTROPY, MULTI_LABEL, REGRESSION, WORDS, kind_of
from minbert.training.optimizer import ParameterGroup
from minbert.training.schedules import schedule_of
from minbert.training.trainer import Trainer, autocast, logits_of

_MIB: Final = 2**20
_GFLOP: Final = 1e9
_EPOCHS: Final = 3  # the number of epochs whose batches are planned; later epochs are alike
_NONE: Final[Shape] = (0, 0)

Lengths = NDArray[np.int64]
Texts = Sequence[Lengths]
"""Tokens of each example, [N], once for each text of an example that is encoded by itself."""


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


def find_shapes(
    job: Job, seeds: Sequence[int], sizes: Iterable[Size]
) -> dict[Size, dict[str, Shapes]]:
    """Shapes of the examples that a job trains on, by size and by part of the task; InputError if
    they have changed since the cell was planned, or can't be read."""
    shapes: dict[Size, dict[str, Shapes]] = {}
    for max_length, alike in grouped(sizes, lambda size: size[1]).items():
        cut = replace(job, cell=replace(job.cell, max_length=max_length))
        train, dev, unseen = _texts(cut)
        for size in alike:
            cell = replace(cut.cell, gradient_accumulation_steps=size[2])
            shapes[size] = shapes_of(cell, seeds, train, dev, size[0], unseen)
    return shapes


def _texts(job: Job) -> tuple[dict[str, Texts], dict[str, Texts], dict[str, Texts]]:
    """By part of the task, texts to train on, of dev, and held-out ones that it evaluates, too."""
    cell = job.cell
    train: dict[str, Texts] = {}
    dev: dict[str, Texts] = {}
    unseen_texts: dict[str, Texts] = {}
    for part, (trained, evaluated) in examples(job).items():
        if cell.held_out:
            trained, unseen, _ = without_held_out(trained, cell.held_out, cell.max_length)
            if cell.early_stopping is not None:
                unseen_texts[part] = [encoded.lengths for encoded in unseen.texts]
        train[part] = [encoded.lengths for encoded in trained.texts]
        dev[part] = [encoded.lengths for encoded in evaluated.texts]
    return train, dev, unseen_texts


def shapes_of(
    cell: Cell,
    seeds: Sequence[int],
    train: Mapping[str, Texts],
    dev: Mapping[str, Texts],
    batch_size: int,
    unseen_texts: Mapping[str, Texts] | None = None,
) -> dict[str, Shapes]:
    """Shapes of the batches over all seeds, planned as a worker plans them; with early stopping,
    those of all planned epochs. Texts are by part of the task; a task without parts has the single
    part "". Unseen texts are held-out ones that are evaluated with dev after each epoch."""
    epochs, max_steps = cell.epochs, cell.max_steps
    accumulated = cell.gradient_accumulation_steps
    longest = {part: _longest(texts) for part, texts in train.items()}
    in_epoch = {part: math.ceil(len(lengths) / batch_size) for part, lengths in longest.items()}
    epoch_steps = math.ceil(sum(in_epoch.values()) / accumulated)
    steps = epoch_steps * epochs if max_steps is None else min(epoch_steps * epochs, max_steps)
    trained: dict[str, list[Shape]] = {part: [] for part in train}
    real = dict.fromkeys(train, 0)
    planned = 0
    for seed in seeds:
        for epoch in range(min(epochs, _EPOCHS, math.ceil(steps / epoch_steps))):
            rng = np.random.default_rng([seed, epoch])
            plan = plan_epoch(longest, batch_size, rng, cell.batching, cell.task_order)
            plan = plan[: accumulated * (steps - epoch * epoch_steps)]
            planned += math.ceil(len(plan) / accumulated)
            for part, indices in plan:
                trained[part].append(_shape(train[part], longest[part], indices))
                real[part] += sum(int(lengths[indices].sum()) for lengths in train[part])
    share = steps / planned
    batches = sum(map(len, trained.values()))
    shapes = {}
    for part, texts in train.items():
        sides = [dev[part], *([unseen_texts[part]] if unseen_texts else [])]
        evaluated = [
            _shape(side, lengths, indices)
            for side, lengths in zip(sides, map(_longest, sides), strict=True)
            for indices in plan_evaluation(lengths, batch_size)
        ]
        shapes[part] = Shapes(
            train=_mean(trained[part], len(texts) * min(batch_size, len(longest[part]))),
            train_largest=_largest(trained[part]),
            evaluate_largest=_largest(evaluated),
            steps=planned * share * len(trained[part]) / batches,
            steps_in_epoch=math.ceil(in_epoch[part] / accumulated),
            train_tokens=sum(map(math.prod, trained[part])) * share,
            real_tokens=real[part] * share,
            evaluations=math.ceil(steps / epoch_steps),
            evaluate_batches=len(evaluated),
            evaluate_tokens=sum(map(math.prod, evaluated)),
            accumulated=min(accumulated, sum(in_epoch.values())),
        )
    return shapes


def _longest(texts: Texts) -> Lengths:
    return np.asarray(np.max(texts, axis=0))


def _shape(texts: Texts, longest: Lengths, indices: Lengths) -> Shape:
    return len(texts) * len(indices), int(longest[indices].max())


def _mean(shapes: Sequence[Shape], texts: int) -> Shape:
    """The shape of a full batch with the mean length of all texts."""
    if not shapes:
        return _NONE
    tokens, count = sum(map(math.prod, shapes)), sum(count for count, _ in shapes)
    return texts, max(1, round(tokens / count))


def _largest(shapes: Sequence[Shape]) -> Shape:
    return max(shapes, key=lambda shape: (math.prod(shape), shape[1]), default=_NONE)
