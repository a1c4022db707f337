"""Measurement of one side's training steps in a cell: times, memory, saved activations, losses."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bench.peers.compiling import CompileLimit
from bench.peers.limit import required, shapes, work_of
from bench.peers.names import COMPILED, OURS
from bench.peers.operators import profile
from bench.peers.products import measure_gflops
from bench.peers.request import Request
from bench.peers.work import Workload, find_workload, training_batches
from bench.plan.job import Job
from bench.results.protocol import LAUNCHED_AT
from bench.worker.device import set_up_device
from bench.worker.probes import panel
from bench.worker.probes.gpu import Gpu
from bench.worker.probes.machine import MachineWatch
from bench.worker.probes.memory import (
    Resident,
    SavedTensors,
    cuda_peaks_mib,
    forget_peak,
    peak_so_far,
    start_cuda_peaks,
)
from bench.worker.probes.steps import StepClock
from bench.worker.setup import Split, examples
from minbert.data.batches import Batch
from minbert.data.tasks import Task, find_task
from minbert.model.config import BertConfig


class StepTrainer(Protocol):
    """A trainer that is driven step by step: ours, or a baseline's."""

    model: nn.Module
    amp: str
    device: torch.device
    optimizer: Any

    def step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Take one step; returns loss [] and logits [B, num_outputs]."""
        ...


class Build(Protocol):
    """Builds the trainer of a cell, with all sides' initial weights, and the id of padding."""

    def __call__(
        self, job: Job, request: Request, task: Task, *, total_steps: int, warmup: float
    ) -> tuple[StepTrainer, int]: ...


@dataclass(frozen=True)
class Side:
    """A side in its process: its builder, and the memory held after its imports."""

    build: Build
    imports: Resident


def use_device(job: Job) -> torch.device:
    """Set up the device of a job as a cell's worker does."""
    torch.set_num_threads(job.threads)
    device = torch.device(job.device)
    set_up_device(device)
    return device


def measure(
    side: Side,
    request: Request,
    limit: CompileLimit,
    on_phase: Callable[[str], None],
    on_step: Callable[[int], None],
) -> dict[str, Any]:
    """Measure a cell's training steps on this process's side.

    The schedule ends with the first step, on the epoch's largest batch. From then on the learning
    rate is zero, so that a step does all its work but changes no weight, and the timing batches
    are replayed.
    """
    job = Job.read(Path(request.cells[0]))
    forget_peak()
    device = use_device(job)
    on_phase("load")
    task = find_task(job.cell.task)
    trainer, pad_id = side.build(job, request, task, total_steps=1, warmup=0.0)
    train, _ = examples(job)[""]
    workload = find_workload(request.side, train, job.cell, pad_id, device)
    torch.manual_seed(job.cell.seed)
    start_cuda_peaks(device)
    startup_s = _since_launch()
    on_phase("measure")
    clock = StepClock(device)

    def count_step(done: int) -> None:
        limit.step()
        on_step(done)

    limit.begin()
    with clock.step(workload.largest):
        trainer.step(workload.largest)
    limit.step()
    if any(group["lr"] != 0 for group in trainer.optimizer.param_groups):
        raise RuntimeError("the timed steps would train: the learning rate is not zero")
    # a silent GPU: the other side's process is on it too, which is no disturbance
    with MachineWatch(Gpu() if device.type == "cuda" else None) as machine:
        replay = panel.replay(
            trainer.step,
            workload.timing_batches,
            StepClock(device),
            budget_s=request.budget_s,
            on_step=count_step,
        )
    limit.end()
    peak = peak_so_far()
    compiled = request.side == COMPILED or (request.side == OURS and job.cell.is_compiled)
    answer = {
        "startup_s": startup_s,
        "first_step_ms": clock.steps()[0].ms,
        "first_step_tokens": workload.largest.tokens,
        "imports_mib": side.imports.rss_mib,
        "peak_mib": peak.rss_mib,
        "peak_above_imports_mib": _above(peak.rss_mib, side.imports.rss_mib),
        "peak_anon_above_imports_mib": _above(peak.anon_mib, side.imports.anon_mib),
        **cuda_peaks_mib(device, graphs=compiled),
        # after the peak, since counting keeps tensors alive; not available for compiled code
        "activations_mib": None if compiled else saved_mib(trainer, workload.largest),
        "flags": [*machine.doubts, *([] if replay.settled else ["unstable_timing"])],
        **_timings(replay, workload),
    }
    if not compiled:  # compiled code has no visible operators
        middle = len(workload.timing_batches) // 2
        step_ms = statistics.median(steps[middle].ms for steps in replay.passes[replay.warm :])
        answer["operators"] = profile(trainer, workload.timing_batches[middle], step_ms)
    if request.side == OURS:
        answer["gflops"] = _speeds(job, request, task, workload, device)
    if request.loss_steps:
        on_phase("losses")
        del trainer
        limit.begin()  # without dropout, other code is compiled
        answer["losses"] = losses(side.build, request, job, task, train, count_step)
        limit.end()
    return answer


def losses(
    build: Build,
    request: Request,
    job: Job,
    task: Task,
    train: Split,
    on_step: Callable[[int], None] = lambda _done: None,
) -> list[float]:
    """The losses of a cell's first steps, without dropout, which differs between libraries."""
    job = replace(job, cell=replace(job.cell, dropout=0.0))
    trainer, pad_id = build(
        job, request, task, total_steps=request.loss_steps, warmup=job.cell.warmup
    )
    values = []
    batches = training_batches(request.side, train, job.cell, pad_id, trainer.device)
    for done, batch in zip(range(1, request.loss_steps + 1), batches, strict=False):
        loss, _ = trainer.step(batch)
        values.append(loss)
        on_step(done)
    return [float(loss) for loss in torch.stack(values).cpu()]


def saved_mib(trainer: StepTrainer, batch: Batch) -> float:
    """The tensors that a forward pass saves for its backward pass, in MiB.

    The learning rate is zero, so nothing is trained.
    """
    saved = SavedTensors(trainer.model)
    with saved.counting():
        trainer.step(batch)
    trainer.optimizer.zero_grad()
    return saved.mib


def _timings(replay: panel.Panel, workload: Workload) -> dict[str, Any]:
    return {
        "passes": [[step.ms for step in steps] for steps in replay.passes],
        "warm": replay.warm,
        "tokens": [step.tokens for step in replay.passes[0]],
        "texts": [step.examples for step in replay.passes[0]],
        "padded": [batch.padded for batch in workload.timing_batches],
        "epoch_tokens": workload.real_tokens,
        "epoch_padded": workload.padded_tokens,
    }


def _speeds(
    job: Job, request: Request, task: Task, workload: Workload, device: torch.device
) -> list[Any]:
    """Pairs of a product's shape and its speed, 10⁹ operations/s, for the mean timing batch."""
    config = BertConfig.from_folder(Path(request.checkpoint))
    tokens = [batch.tokens for batch in workload.timing_batches]
    texts = [len(batch.labels) for batch in workload.timing_batches]
    mean = work_of(job.cell, task.num_outputs, request.new_pooler, tokens, texts)
    speeds = measure_gflops(shapes(required(config, mean)), job.cell.amp, device)
    return [[list(shape), speed] for shape, speed in speeds]


def _above(peak: float | None, imports: float | None) -> float | None:
    return None if peak is None or imports is None else peak - imports


def _since_launch() -> float | None:
    launched = os.environ.get(LAUNCHED_AT)
    return time.monotonic() - float(launched) if launched is not None else None
