"""Models and their training steps, as cells build them, for the checks that train in-process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from adapters.injection import inject, parameter_groups
from bench.engines.engine import engine_of
from bench.plan.cell import GRID
from bench.plan.gridfile import Axes, Grid, Settings
from bench.plan.job import Job
from bench.plan.planning import Resolved, expand
from bench.worker.device import set_up_device
from bench.worker.probes.steps import StepClock
from bench.worker.setup import trained_groups
from minbert.data.batches import Batch
from minbert.model.classifier import BertClassifier, initialise
from minbert.model.config import GEOMETRIES, BertConfig
from minbert.training.optimizer import ParameterGroup
from minbert.training.trainer import Trainer

CONFIG: Final = replace(
    GEOMETRIES["bert-tiny"], vocab_size=1000, hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0, initializer_range=0.1,
)  # fmt: skip
"""Two layers of width 128. Weights are as large as trained ones, so that wrong products show."""
SETTINGS: Final = (
    ("full", None),
    ("head", None),
    *((mode, layers) for mode in ("lora", "dora") for layers in ("attn-only", "all-lin")),
)
"""A mode and its layer set: those that train least and most."""

_CLASSES: Final = 3
_RANK: Final = 4
_ALPHA: Final = 8  # twice the rank, so that a path that leaves out the scale differs
_SCALE: Final = 1024.0  # of fp16's losses: low enough that no step overflows and is skipped
_trainer: Final = partial(Trainer, losses={"": "cross-entropy"}, schedule=lambda _step: 1.0)


def small_model(
    mode: str, layers: str | None, device: str, config: BertConfig = CONFIG, pooling: str = "mean"
) -> BertClassifier:
    """A classifier in training mode whose adapters already change what it computes, on a device
    that is set up as for a cell."""
    set_up_device(torch.device(device))
    model = BertClassifier(config, _CLASSES, pooling=pooling, dropout=config.hidden_dropout_prob)
    initialise(model, 0)
    rank, is_new = None if layers is None else _RANK, pooling == "pooler"
    inject(model, mode=mode, layers=layers, rank=rank, alpha=_ALPHA, new_pooler=is_new, seed=0)
    move_trained(model)
    return model.to(device).train()


def move_trained(model: nn.Module) -> None:
    """Change what trains at random: B is zero at first, which hides the gradient of A."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)


def cell_trainer(
    device: str, mode: str, layers: str | None, amp: str, model: str, **settings: Any
) -> Trainer:
    """The model and trainer of a cell on random weights, by the engine and other settings of a grid
    file, at a constant rate."""
    adapter: dict[str, Any] = {} if layers is None else {"layers": [layers], "rank": [8]}
    axes = Axes(mode=[mode], amp=[amp], **adapter)
    grid = Grid(name="doctor", settings=Settings(init="random", **settings), cells=[axes])
    [cell] = expand(grid, Resolved(model, "0", "mean", "0", amp, GRID, attention="sdpa"))
    job = Job(cell=cell, device=device, checkpoint=None, geometry=model, tokenizer="", data=None)
    place = torch.device(device)
    set_up_device(place, tf32=cell.tf32 == "on")
    built = engine_of(cell).build(job)
    return _trainer(built, trained_groups(built, cell), amp=cell.amp, device=place)


@contextmanager
def waiting_is_an_error(device: torch.device) -> Iterator[None]:
    """Within the block torch raises a RuntimeError where the CPU waits for the GPU."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def median_ms(trainer: Trainer, batch: Batch, steps: int) -> float:
    clock = StepClock(trainer.device)
    for _ in range(steps):
        with clock.step(batch):
            trainer.step(batch)
    return median(step.ms for step in clock.steps())


def kernels_of(step: Callable[[], object], device: torch.device) -> list[tuple[str, float]]:
    """Names and ms of the kernels that the GPU runs for a step, by torch's profiler; copies and
    fills are left out."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return [
        (event.name, event.time_range.elapsed_us() / 1000)
        for event in profiled.events()
        if event.device_type.name == "CUDA"
        and not event.is_user_annotation
        and not event.name.startswith(("Memcpy", "Memset"))
    ]


def small_trainer(
    model: BertClassifier, amp: str, forward: Callable[[Batch], Tensor] | None = None
) -> Trainer:
    parameters = parameter_groups(model).values()
    groups = [ParameterGroup(tuple(named.values()), 1e-3, 0.01) for named in parameters]
    device = next(model.parameters()).device
    trainer = _trainer(model, groups, amp=amp, device=device, forward=forward)
    if trainer.scaler is not None:
        trainer.scaler = torch.amp.GradScaler(device.type, init_scale=_SCALE)
    return trainer


def small_batch(texts: int, longest: int, device: str, *, masked: bool = True) -> Batch:
    """A batch of random ids, in which each text is a token shorter than the one before; without a
    mask, all are of one length."""
    generator = torch.Generator().manual_seed(longest)
    ids = torch.randint(1, CONFIG.vocab_size, (texts, longest), generator=generator)
    lengths = torch.arange(longest, longest - texts, -1) if masked else torch.tensor([longest])
    mask = (torch.arange(longest) < lengths.clamp(min=1)[:, None]).long().expand(texts, longest)
    own = mask.to(device) if masked else None
    ids, types = (ids * mask).to(device), torch.zeros_like(ids).to(device)
    labels = (torch.arange(texts) % _CLASSES).to(device)
    return Batch(ids, own, types, labels, int(mask.sum()))
