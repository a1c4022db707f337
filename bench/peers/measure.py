"""One side's training steps of one cell: times, memory, saved activations, losses."""

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


class Steps(Protocol):
    """What takes training steps: our Trainer, or the peer's."""

    model: nn.Module
    amp: str
    device: torch.device
    optimizer: Any

    def step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Take one step; loss [] and logits [B, num_outputs]."""
        ...


class Build(Protocol):
    """Makes what takes the steps of a cell, with the first weights of all sides."""

    def __call__(
        self, job: Job, request: Request, task: Task, *, total_steps: int, warmup: float
    ) -> tuple[Steps, int]: ...


@dataclass(frozen=True)
class Side:
    """A side in its process: what builds it, and what it held once it had imported its own."""

    build: Build
    imports: Resident


def use_device(job: Job) -> torch.device:
    """The device of a job, set up as a cell's worker does."""
    torch.set_num_threads(job.threads)
    device = torch.device(job.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return device


def measure(
    side: Side,
    request: Request,
    limit: CompileLimit,
    on_phase: Callable[[str], None],
    on_step: Callable[[int], None],
) -> dict[str, Any]:
    """Measure a cell's training steps, as this process's side takes them.

    The schedule ends with the first step, on the epoch's largest batch: from then on the rate is
    zero, so that a step does all its work and changes no weight, and the panel is replayed.
    """
    job = Job.read(Path(request.cells[0]))
    forget_peak()
    device = use_device(job)
    on_phase("load")
    task = find_task(job.cell.task)
    trainer, pad_id = side.build(job, request, task, total_steps=1, warmup=0.0)
    train, _ = examples(job)[""]
    work = find_workload(request.side, train, job.cell, pad_id, device)
    torch.manual_seed(job.cell.seed)
    start_cuda_peaks(device)
    startup_s = _since_launch()
    on_phase("measure")
    clock = StepClock(device)

    def stepped(done: int) -> None:
        limit.step()
        on_step(done)

    limit.begin()
    with clock.step(work.largest):
        trainer.step(work.largest)
    limit.step()
    if any(group["lr"] != 0 for group in trainer.optimizer.param_groups):
        raise RuntimeError("the steps of a panel would train: the learning rate is not zero")
    # a silent GPU: the other side's process is on it too, which is no disturbance
    with MachineWatch(Gpu() if device.type == "cuda" else None) as machine:
        found = panel.replay(
            trainer.step, work.panel, device, budget_s=request.budget_s, on_step=stepped
        )
    limit.end()
    peak = peak_so_far()
    compiled = request.side == COMPILED or (request.side == OURS and job.cell.is_compiled)
    answer = {
        "startup_s": startup_s,
        "first_step_ms": clock.steps()[0].ms,
        "first_step_tokens": work.largest.tokens,
        "imports_mib": side.imports.rss_mib,
        "peak_mib": peak.rss_mib,
        "peak_above_imports_mib": _above(peak.rss_mib, side.imports.rss_mib),
        "peak_anon_above_imports_mib": _above(peak.anon_mib, side.imports.anon_mib),
        **cuda_peaks_mib(device, graphs=compiled),
        # after the peak: counting keeps alive what it counts; compiled code does not say
        "activations_mib": None if compiled else saved_mib(trainer, work.largest),
        "flags": [*machine.doubts, *([] if found.settled else ["unstable_timing"])],
        **_panel_figures(found, work),
    }
    if not compiled:  # of compiled code there are no operators to see
        middle = len(work.panel) // 2
        step_ms = statistics.median(times[middle] for times in found.passes[found.warm :])
        answer["operators"] = profile(trainer, work.panel[middle], step_ms)
    if request.side == OURS:
        answer["gflops"] = _speeds(job, request, task, work, device)
    if request.loss_steps:
        on_phase("losses")
        del trainer
        limit.begin()  # without dropout it is other code
        answer["losses"] = losses(side.build, request, job, task, train, stepped)
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
    """The losses of a cell's first steps without dropout, which no two libraries draw alike."""
    job = replace(job, cell=replace(job.cell, dropout=0.0))
    trainer, pad_id = build(
        job, request, task, total_steps=request.loss_steps, warmup=job.cell.warmup
    )
    found = []
    batches = training_batches(request.side, train, job.cell, pad_id, trainer.device)
    for done, batch in zip(range(1, request.loss_steps + 1), batches, strict=False):
        loss, _ = trainer.step(batch)
        found.append(loss)
        on_step(done)
    return [float(loss) for loss in torch.stack(found).cpu()]


def saved_mib(trainer: Steps, batch: Batch) -> float:
    """What a step's forward pass of a batch keeps for its backward pass, MiB.

    For the figure only: the rate is zero, so nothing is trained.
    """
    saved = SavedTensors(trainer.model)
    with saved.counting():
        trainer.step(batch)
    trainer.optimizer.zero_grad()
    return saved.mib


def _panel_figures(found: panel.Panel, work: Workload) -> dict[str, Any]:
    return {
        "passes": [list(times) for times in found.passes],
        "warm": found.warm,
        "tokens": list(found.tokens),
        "texts": list(found.examples),
        "padded": [batch.padded for batch in work.panel],
        "epoch_tokens": work.real_tokens,
        "epoch_padded": work.padded_tokens,
    }


def _speeds(
    job: Job, request: Request, task: Task, work: Workload, device: torch.device
) -> list[Any]:
    """The speed of each product that the panel's mean batch needs: shapes with 10⁹ operations/s."""
    config = BertConfig.from_folder(Path(request.checkpoint))
    tokens = [batch.tokens for batch in work.panel]
    texts = [len(batch.labels) for batch in work.panel]
    mean = work_of(job.cell, task.num_outputs, request.new_pooler, tokens, texts)
    wanted = shapes(required(config, mean))
    return [[list(shape), speed] for shape, speed in measure_gflops(wanted, job.cell.amp, device)]


def _above(peak: float | None, imports: float | None) -> float | None:
    return None if peak is None or imports is None else peak - imports


def _since_launch() -> float | None:
    launched = os.environ.get(LAUNCHED_AT)
    return time.monotonic() - float(launched) if launched is not None else None
