"""One cell from start to end: load, tokenise, train, evaluate, measure, write what was found.

What all cells have in common; `bench.worker.single` and `bench.worker.multitask` have the rest.
"""

import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Generic

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn

from bench.plan.cell import FP32, Row
from bench.plan.job import Job
from bench.results.protocol import LAUNCHED_AT, PREDICTIONS
from bench.stats.steptimes import STEPS_ENOUGH
from bench.worker.hostcopies import HostCopies
from bench.worker.measure import measure_activations, measure_panel
from bench.worker.probes.energy import energy
from bench.worker.probes.gpu import Gpu
from bench.worker.probes.machine import MachineWatch
from bench.worker.probes.memory import cuda_peaks_mib, owned_mib, resident_now, start_cuda_peaks
from bench.worker.probes.panel import B
from bench.worker.probes.phases import Phases
from bench.worker.probes.steps import StepClock
from bench.worker.progress import Progress
from bench.worker.record import Epoch, write_epochs, write_machine, write_phases, write_steps
from bench.worker.setup import unfreezing
from bench.worker.validity import Movement
from minbert.data.tasks import find_task
from minbert.errors import InputError
from minbert.kernels.reference import kernels
from minbert.training.trainer import Group, Trainer, schedule_of

Outputs = Mapping[str, tuple[NDArray[np.float32], NDArray[Any]]]
"""By part of the task, "" where it has none, logits [N, C] and targets [N]."""


class InvalidError(ArithmeticError):
    """What was trained is no result: a loss that is not finite, or weights that did not move."""


@dataclass
class Record:
    """What is gathered while a cell runs; losses are on the host."""

    losses: list[torch.Tensor] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    columns: Row = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    joules: list[float | None] = field(default_factory=list)


class CellRun(ABC, Generic[B]):
    """Runs a job. The columns that it measures are in `record`, as far as it got."""

    model: nn.Module
    compiled: Callable[[Any], Tensor] | None = None
    """Maps a batch to logits in training steps, if not the model itself does."""

    def __init__(self, job: Job, folder: Path, progress: Progress) -> None:
        self.job = job
        self.cell = job.cell
        self.task = find_task(job.cell.task)
        self.folder = folder
        self.progress = progress
        self.phases = Phases(progress.phase)
        self.record = Record()
        self.device = torch.device(job.device)
        self.gpu = Gpu.of(self.device)  # before torch makes a context, which is memory of the cell
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        self.clock = StepClock(self.device)
        self.machine = MachineWatch(self.gpu)
        self.losses_kept = HostCopies(self.device)

    @abstractmethod
    def _load(self, job: Job) -> nn.Module:
        """The model of a job, ready to train."""

    @abstractmethod
    def _tokenise(self) -> None:
        """Get the examples."""

    @abstractmethod
    def _groups(self) -> list[Group]:
        """What trains, with rates and decays."""

    @property
    @abstractmethod
    def _loss(self) -> str:
        """That of the trainer's own steps."""

    @abstractmethod
    def _steps_per_epoch(self) -> int:
        """How many batches there are."""

    @abstractmethod
    def _batches(self, epoch: int) -> Iterator[B]:
        """Those of an epoch, from 0, each made when it is asked for."""

    def _part(self, _batch: B) -> str:
        """The part of the task that a batch is of."""
        return ""

    @abstractmethod
    def _forward(self, batch: B) -> Tensor:
        """The model's logits [B, C]."""

    def _compile(self, _epochs: int) -> Callable[[Any], Tensor]:
        """The model's forward and backward pass, compiled for the batches of so many epochs.

        Raises:
            InputError: where steps are of several kinds, or if it can't be done.
        """
        raise InputError(f"compile: steps of task {self.task.name} are not compiled; leave it out")

    @abstractmethod
    def _step(self, trainer: Trainer, batch: B) -> tuple[Tensor, Tensor]:
        """Take a training step; its loss [] and logits [B, C]."""

    @abstractmethod
    def _fitted(self, outputs: Outputs) -> float | None:
        """The score on an epoch's batches as they were trained on."""

    @abstractmethod
    def _evaluate(self, loss: float, fitted: float | None) -> Epoch:
        """Predict dev; with it, what an epoch of that loss and score on its batches gave."""

    @abstractmethod
    def _scores(self) -> Row:
        """Columns of the last epoch's dev scores."""

    @abstractmethod
    def _predictions(self) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        """What is kept of the last predictions, and notes beside it."""

    @abstractmethod
    def _panel(self) -> tuple[list[B], B]:
        """Batches of the first epoch: a panel of them, and the largest."""

    def _unused(self, _epoch: int) -> Set[nn.Parameter]:
        """What no batch that came in an epoch, from 0, goes through."""
        return frozenset()

    def _untrained(self) -> Set[nn.Parameter]:
        """What would train and never had the chance: in each epoch it was frozen, or not used."""
        each = []
        for epoch in range(len(self.record.epochs)):
            frozen = set() if self.unfreezing is None else self.unfreezing.frozen(epoch)
            each.append(frozen | self._unused(epoch))
        return set.intersection(*each)

    @abstractmethod
    def _idle(self) -> Set[nn.Parameter]:
        """What trains and need not move: the last bias where the loss is 1 − r, which does not
        change with what is added to all predictions."""

    @abstractmethod
    def _keep(self) -> None:
        """Leave the trained weights in the cell's folder."""

    def run(self) -> Row:
        """Train, evaluate and measure the cell; the measured columns.

        Raises:
            InvalidError: when the loss is no longer finite, or what trains did not move.
        """
        with kernels(self.cell.kernels):
            return self._run()

    def _run(self) -> Row:
        torch.set_num_threads(self.job.threads)
        self.record.columns["imports_anon_mib"] = resident_now().anon_mib
        with self._phase("load"):
            self.model = self._load(self.job)
        with self._phase("tokenise"):
            self._tokenise()
        movement = Movement(self.model)
        trainer = self._train()
        self._write_curves()
        if problem := movement.problem(self._untrained(), self._idle()):
            raise InvalidError(problem)
        with self._phase("measure"):
            chosen, largest = self._panel()
            if not self.cell.is_compiled:  # compiled code does not say what it keeps
                self.record.columns |= measure_activations(trainer, lambda: self._forward(largest))
            # steps of training that unfreezes are of several kinds: the last of them is timed
            if len(self.record.losses) >= STEPS_ENOUGH and self.unfreezing is None:
                self.record.flags += self.machine.doubts
                write_machine(self.folder, self.machine.report)
            else:
                self.record.flags += measure_panel(
                    trainer,
                    lambda batch: self._step(trainer, batch),
                    chosen,
                    self.folder,
                    train_s=self.phases.seconds["train"],
                    gpu=self.gpu,
                    on_step=lambda done: self.progress.step(done, None),
                )
        if self.job.keep:
            with self._phase("save"):
                self._restore_frozen()
                self._keep()
        write_phases(self.folder, self.phases)
        return self.record.columns

    def _restore_frozen(self) -> None:
        """Give frozen weights that were held in AMP's type the values of before, in fp32."""
        if self.cell.frozen_dtype in (None, FP32):
            return
        exact = replace(self.job, device="cpu", cell=replace(self.cell, frozen_dtype=FP32))
        before = dict(self._load(exact).named_parameters())
        for name, parameter in self.model.named_parameters():
            if parameter.dtype != before[name].dtype:
                parameter.data = before[name].data

    def memory(self) -> Row:
        """Peaks so far, of the process and on the GPU."""
        peak = self.phases.peak
        on_gpu = self.gpu.memory if self.gpu is not None else {}
        return {
            "peak_rss_mib": peak.rss_mib,
            "peak_anon_mib": peak.anon_mib,
            **cuda_peaks_mib(self.device, graphs=self.cell.is_compiled),
            **on_gpu,
        }

    def _phase(self, name: str) -> AbstractContextManager[None]:
        return self.phases.phase(name)

    def _train(self) -> Trainer:
        """Train and evaluate, epoch by epoch, and leave the predictions."""
        cell, record = self.cell, self.record
        steps_per_epoch = self._steps_per_epoch()
        total = steps_per_epoch * cell.epochs
        total = min(total, cell.max_steps) if cell.max_steps is not None else total
        if cell.is_compiled:
            with self._phase("compile"):
                self.compiled = self._compile(math.ceil(total / steps_per_epoch))
            record.columns["compile_s"] = self.phases.seconds["compile"]
        trainer = Trainer(
            self.model,
            self._groups(),
            loss=self._loss,
            schedule=schedule_of(cell.schedule, total, cell.warmup, steps_per_epoch),
            amp=cell.amp,
            device=self.device,
            optimizer=cell.optimizer,
            forward=self.compiled,
        )
        self.unfreezing = unfreezing(self.model, cell)
        record.columns |= {
            "params_total": sum(p.numel() for p in self.model.parameters()),
            "params_trainable": sum(p.numel() for p in trainer.parameters),
        }
        torch.manual_seed(cell.seed)
        start_cuda_peaks(self.device)
        for epoch in range(cell.epochs):
            if self.unfreezing is not None:
                self.unfreezing.begin(epoch)
            with self._phase("train"), self.machine, energy(self.gpu) as drawn:
                batches = islice(self._batches(epoch), total - len(record.losses))
                loss, fitted = self._train_epoch(trainer, batches, total)
            record.joules.append(drawn.joules)
            record.columns["energy_source"] = drawn.source
            with self._phase("evaluate"):
                record.epochs.append(self._evaluate(loss, fitted))
            if len(record.losses) >= total:
                break
        trainer.rest()
        record.columns |= self._totals() | self.memory() | self._quality()
        kept, notes = self._predictions()
        save_file(kept, self.folder / PREDICTIONS, metadata=notes)
        return trainer

    def _train_epoch(
        self, trainer: Trainer, batches: Iterable[B], total: int
    ) -> tuple[float, float | None]:
        """Mean loss of an epoch's steps, and the score on its batches as they were trained on."""
        record = self.record
        outputs: dict[str, list[tuple[Tensor, Tensor]]] = {}
        outputs_kept = HostCopies(self.device)
        begun = len(record.losses)
        for batch in batches:
            if not record.losses:
                record.columns["startup_s"] = _since_launch()
            with self.clock.step(batch):
                loss, logits = self._step(trainer, batch)
            record.losses.append(self.losses_kept.keep(loss))
            of_part = outputs.setdefault(self._part(batch), [])
            of_part.append((outputs_kept.keep(logits), outputs_kept.keep(batch.labels)))
            if len(of_part) == 1 and (not begun or self.unfreezing is not None):
                self._take_owned(trainer)
            self.progress.step(len(record.losses), total, self._last_loss)
            self.machine.look()
        losses = self._finite_losses()[begun:]
        if self.gpu is not None:
            self.gpu.look()
        return float(losses.mean()), self._fitted(
            {
                part: (
                    torch.cat([logits for logits, _ in steps]).numpy(),
                    torch.cat([labels for _, labels in steps]).numpy(),
                )
                for part, steps in outputs.items()
            }
        )

    def _take_owned(self, trainer: Trainer) -> None:
        """Memory by owner after a step, where it is more than after those before: a part trains
        what others don't, and what unfreezes is added."""
        for name, mib in owned_mib(self.model, trainer.optimizer).items():
            before = self.record.columns.get(name)
            self.record.columns[name] = max(mib, float(before or 0.0))

    def _last_loss(self) -> float:
        self.losses_kept.wait()
        loss = float(self.record.losses[-1])
        return loss if math.isfinite(loss) else float(self._finite_losses()[-1])

    def _finite_losses(self) -> NDArray[np.float32]:
        self.losses_kept.wait()
        losses: NDArray[np.float32] = torch.stack(self.record.losses).numpy()
        finite = np.isfinite(losses)
        if not finite.all():
            raise InvalidError(f"the loss is not finite, first at step {finite.argmin() + 1}")
        return losses

    def _told(self, done: int, of: int) -> None:
        """Tell how many examples are predicted, and of how many."""
        self.progress.step(done, of, None)

    @staticmethod
    def _finite(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits, if all of them are finite."""
        if not np.isfinite(logits).all():
            raise InvalidError("the dev logits are not finite")
        return logits

    def _totals(self) -> Row:
        joules = [value for value in self.record.joules if value is not None]
        return {
            "tokens_total": sum(step.tokens for step in self.clock.steps()),
            "train_s": self.phases.seconds["train"],
            "eval_s": self.phases.seconds["evaluate"],
            "energy_j": sum(joules) if len(joules) == len(self.record.joules) else None,
        }

    def _quality(self) -> Row:
        """Scores after the last epoch; none where the weights were random to begin with."""
        if self.cell.init == "random":
            return {}
        last = self.record.epochs[-1]
        return {
            "dev_metric": self.task.metric,
            "dev_score": last.dev_score,
            **self._scores(),
            "dev_loss": last.dev_loss,
            "train_loss": last.train_loss,
            "train_score": last.train_score,
        }

    def _write_curves(self) -> None:
        losses = torch.stack(self.record.losses).tolist()
        write_steps(self.folder, self.clock.steps(), losses)
        write_epochs(self.folder, self.record.epochs)


def _since_launch() -> float | None:
    launched = os.environ.get(LAUNCHED_AT)
    return time.monotonic() - float(launched) if launched is not None else None
