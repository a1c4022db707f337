"""Runs a step and an evaluation of a variant without memory or values, and counts."""

from collections.abc import Iterable
from typing import Final

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from adapters.injection import inject, parameter_groups
from bench.predict.costs import Counts, Shape, Shapes, Variant
from bench.predict.counting import Counter, Work
from bench.predict.workload import Workload
from minbert.batches import Batch
from minbert.config import BertConfig
from minbert.kernels.linear import hold_frozen
from minbert.losses import CROSS_ENTROPY, REGRESSION, loss_name
from minbert.model import BertClassifier
from minbert.training import HALF, Group, Trainer, autocast, linear_schedule

_MIB: Final = 2**20
_GFLOP: Final = 1e9


def count(workload: Workload, shapes: Shapes, variant: Variant) -> Counts:
    """What a variant costs, from the code that trains it, on tensors that hold nothing."""
    model = skeleton(workload, variant)
    with FakeTensorMode(), Counter() as counter:
        fill(model, torch.device(workload.device))
        return run(model, workload, shapes, variant.amp, counter)


def skeleton(workload: Workload, variant: Variant) -> BertClassifier:
    """The model with its adapters, on the meta device."""
    config = BertConfig(**workload.config)
    model = BertClassifier(
        config,
        workload.outputs,
        pooling=workload.pooling,
        dropout=config.hidden_dropout_prob,
        head=workload.head,
    )
    inject(
        model,
        mode=variant.mode,
        layers=variant.layers,
        rank=variant.rank,
        alpha=1.0,
        new_pooler=workload.new_pooler,
        seed=0,
    )
    if variant.amp in HALF:
        hold_frozen(model, HALF[variant.amp])
    return model


def fill(model: nn.Module, device: torch.device) -> None:
    """Give every parameter and buffer a storage, without values."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            setattr(module, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))


def run(model: nn.Module, workload: Workload, shapes: Shapes, amp: str, counter: Counter) -> Counts:
    """Two steps and an evaluation's batch, on a model that was filled under the counter.

    The first step is of mean length, for the work, and brings the optimizer's state, which is
    there in all later ones; the second is the largest, for the peak. The evaluation comes while
    the last step's gradients are still there, as in a cell. The optimizer is AdamW for all: the
    others keep as much, and ask for values that there are not.
    """
    device = torch.device(workload.device)
    trainer = Trainer(
        model,
        [Group(tuple(of.values()), 1e-3, 0.01) for of in parameter_groups(model).values()],
        loss=loss_name(workload.kind, workload.regression_loss),
        schedule=linear_schedule(2, 0.0),
        amp=amp,
        device=device,
    )
    trainer.scaler = None  # it asks for values, and holds two numbers
    step = _train(trainer, shapes.train, counter)
    counter.restart_peak()
    _train(trainer, shapes.train_largest, counter)
    train_peak = counter.peak
    counter.restart_peak()
    evaluation = _evaluate(model, shapes.evaluate_largest, amp, device, counter)
    state = [
        value
        for values in trainer.optimizer.state.values()
        for value in values.values()
        if isinstance(value, torch.Tensor)
    ]
    return Counts(
        weights_mib=_mib([*model.parameters(), *model.buffers()]),
        gradients_mib=_mib(p.grad for p in trainer.parameters if p.grad is not None),
        optimizer_mib=_mib(state),
        train_peak_mib=train_peak / _MIB,
        evaluate_peak_mib=counter.peak / _MIB,
        step_gflop=step.flops / _GFLOP,
        step_moved_mib=step.moved / _MIB,
        step_kernels=step.kernels,
        evaluate_gflop=evaluation.flops / _GFLOP,
        evaluate_moved_mib=evaluation.moved / _MIB,
        evaluate_kernels=evaluation.kernels,
    )


def _train(trainer: Trainer, shape: Shape, counter: Counter) -> Work:
    batch = _batch(shape, trainer.loss, trainer.device)
    before = counter.work
    trainer.step(batch)
    return counter.work - before


@torch.no_grad()
def _evaluate(
    model: nn.Module, shape: Shape, amp: str, device: torch.device, counter: Counter
) -> Work:
    model.eval()
    batch = _batch(shape, CROSS_ENTROPY, device)
    before = counter.work
    with autocast(amp, device):
        logits = model(batch.input_ids, batch.attention_mask, batch.token_type_ids)
    logits.float()
    return counter.work - before


def _batch(shape: Shape, loss: str, device: torch.device) -> Batch:
    labels = torch.float32 if loss in REGRESSION else torch.int64
    return Batch(
        input_ids=torch.zeros(shape, dtype=torch.int64, device=device),
        attention_mask=torch.ones(shape, dtype=torch.int64, device=device),
        token_type_ids=torch.zeros(shape, dtype=torch.int64, device=device),
        labels=torch.zeros(shape[0], dtype=labels, device=device),
        tokens=shape[0] * shape[1],
    )


def _mib(tensors: Iterable[torch.Tensor]) -> float:
    return sum(tensor.nbytes for tensor in tensors) / _MIB
