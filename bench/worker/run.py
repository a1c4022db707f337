"""One cell from start to end: load, tokenise, train, evaluate, measure, write what was found."""

import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from bench.job import Job
from bench.probes.energy import energy
from bench.probes.gpu import Gpu
from bench.probes.machine import MachineWatch
from bench.probes.memory import cuda_peaks_mib, owned_mib, resident_now, start_cuda_peaks
from bench.probes.panel import choose
from bench.probes.phases import Phases
from bench.probes.steps import StepClock
from bench.protocol import LAUNCHED_AT, PREDICTIONS
from bench.schema import Row
from bench.steptimes import STEPS_ENOUGH
from bench.worker.measure import measure_activations, measure_panel
from bench.worker.progress import Progress
from bench.worker.record import Epoch, write_epochs, write_machine, write_phases, write_steps
from bench.worker.setup import (
    Split,
    build_model,
    examples,
    thawing,
    trained_groups,
    without_held_out,
)
from bench.worker.validity import Movement
from minbert.batches import Batch, collate, plan_training, prepare_epoch
from minbert.evaluation import predict
from minbert.losses import PEARSON, loss_name, mean_loss
from minbert.scores import score
from minbert.tasks import find_task
from minbert.training import Trainer, schedule_of


class InvalidError(ArithmeticError):
    """What was trained is no result: a loss that is not finite, or weights that did not move."""


@dataclass
class Record:
    """What is gathered while a cell runs."""

    losses: list[torch.Tensor] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    columns: Row = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    joules: list[float | None] = field(default_factory=list)


class CellRun:
    """Runs a job. The columns that it measures are in `record`, as far as it got."""

    def __init__(self, job: Job, folder: Path, progress: Progress) -> None:
        self.job = job
        self.cell = job.cell
        self.task = find_task(job.cell.task)
        self.folder = folder
        self.progress = progress
        self.phases = Phases(progress.phase)
        self.record = Record()
        self.device = torch.device(job.device)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        self.clock = StepClock(self.device)
        self.gpu = _gpu(self.device)
        self.machine = MachineWatch(self.gpu)

    def run(self) -> Row:
        """Train, evaluate and measure the cell; the measured columns.

        Raises:
            InvalidError: when the loss is no longer finite, or what trains did not move.
        """
        torch.set_num_threads(self.job.threads)
        self.record.columns["imports_anon_mib"] = resident_now().anon_mib
        with self._phase("load"):
            self.model = build_model(self.job, self.task.num_outputs)
        with self._phase("tokenise"):
            train, dev = examples(self.job)
            held: Split | None = None
            if self.cell.held_out:
                train, held = without_held_out(train, self.cell.held_out)
        movement = Movement(self.model)
        trainer = self._train(train, dev, held)
        self._write_curves()
        frozen = set() if self.thaws is None else self.thaws.never(len(self.record.epochs))
        # 1 − r does not change with what is added to all predictions
        idle = {self.model.classifier.last_bias} if trainer.loss == PEARSON else set()
        if problem := movement.problem(frozen, idle):
            raise InvalidError(problem)
        with self._phase("measure"):
            chosen, largest = self._panel(train)
            self.record.columns |= measure_activations(trainer, largest)
            # steps of training that unfreezes are of several kinds: the last of them is timed
            if len(self.record.losses) >= STEPS_ENOUGH and self.thaws is None:
                self.record.flags += self.machine.doubts
                write_machine(self.folder, self.machine.report)
            else:
                self.record.flags += measure_panel(
                    trainer,
                    chosen,
                    self.folder,
                    train_s=self.phases.seconds["train"],
                    gpu=self.gpu,
                    on_step=lambda done: self.progress.step(done, None),
                )
        if self.job.keep:
            with self._phase("save"):
                self._keep()
        write_phases(self.folder, self.phases)
        return self.record.columns

    def memory(self) -> Row:
        """Peaks so far, of the process and on the card."""
        peak = self.phases.peak
        card = self.gpu.memory if self.gpu is not None else {}
        return {
            "peak_rss_mib": peak.rss_mib,
            "peak_anon_mib": peak.anon_mib,
            **cuda_peaks_mib(self.device),
            **card,
        }

    def _phase(self, name: str) -> AbstractContextManager[None]:
        return self.phases.phase(name)

    def _train(self, train: Split, dev: Split, held: Split | None) -> Trainer:
        """Train and evaluate, epoch by epoch; in the end what was held out is predicted too."""
        cell, record = self.cell, self.record
        steps_per_epoch = math.ceil(len(train) / cell.batch_size)
        total = steps_per_epoch * cell.epochs
        total = min(total, cell.max_steps) if cell.max_steps is not None else total
        trainer = Trainer(
            self.model,
            trained_groups(self.model, cell),
            loss=loss_name(self.task.kind, cell.regression_loss),
            schedule=schedule_of(cell.schedule, total, cell.warmup, steps_per_epoch),
            amp=cell.amp,
            device=self.device,
            optimizer=cell.optimizer,
        )
        self.thaws = thawing(self.model, cell)
        record.columns |= {
            "params_total": sum(p.numel() for p in self.model.parameters()),
            "params_trainable": sum(p.numel() for p in trainer.parameters),
        }
        torch.manual_seed(cell.seed)
        start_cuda_peaks(self.device)
        logits = np.empty((0, 0), dtype=np.float32)
        for epoch in range(cell.epochs):
            if self.thaws is not None:
                self.thaws.begin(epoch)
            with self._phase("train"), self.machine, energy(self.gpu) as drawn:
                batches = islice(self._batches(train, epoch), total - len(record.losses))
                loss, fitted = self._train_epoch(trainer, batches, total)
            record.joules.append(drawn.joules)
            record.columns["energy_source"] = drawn.source
            with self._phase("evaluate"):
                logits = self._predict(dev)
            record.epochs.append(
                Epoch(
                    train_loss=loss,
                    train_score=fitted,
                    dev_loss=mean_loss(trainer.loss, logits, dev.targets),
                    dev_score=score(self.task.metric, logits, dev.labels),
                )
            )
            if len(record.losses) >= total:
                break
        trainer.rest()
        record.columns |= self._totals() | self.memory() | self._quality()
        # what brings a regression's logits back to the labels' scale
        self.notes = {"target_mean": f"{dev.mean:.9g}", "target_deviation": f"{dev.deviation:.9g}"}
        kept = {"logits": logits, "labels": dev.labels}
        if held is not None:
            with self._phase("evaluate"):
                kept |= {"held_logits": self._predict(held), "held_labels": held.labels}
        save_file(kept, self.folder / PREDICTIONS, metadata=self.notes)
        return trainer

    def _batches(self, train: Split, epoch: int) -> Iterator[Batch]:
        return prepare_epoch(
            train.encoded,
            train.targets,
            self.cell.batch_size,
            np.random.default_rng([self.cell.seed, epoch]),
            pad_id=self.model.bert.config.pad_token_id,
            device=self.device,
            batching=self.cell.batching,
        )

    def _panel(self, train: Split) -> tuple[list[Batch], Batch]:
        """Batches of the first epoch: a panel of them, and the largest."""
        rng, lengths = np.random.default_rng([self.cell.seed, 0]), train.encoded.lengths
        order = plan_training(lengths, self.cell.batch_size, rng, self.cell.batching)
        tokens = [int(lengths[indices].sum()) for indices in order]
        chosen = [order[index] for index in choose(tokens, [len(each) for each in order])]
        largest = max(order, key=lambda indices: len(indices) * int(lengths[indices].max()))
        pad_id = self.model.bert.config.pad_token_id
        batches = [
            collate(train.encoded, train.targets, indices, pad_id, self.device)
            for indices in (*chosen, largest)
        ]
        return batches[:-1], batches[-1]

    def _train_epoch(
        self, trainer: Trainer, batches: Iterable[Batch], total: int
    ) -> tuple[float, float | None]:
        """Mean loss of an epoch's steps, and the metric on its batches as they were trained on."""
        record = self.record
        outputs: list[torch.Tensor] = []
        labels: list[torch.Tensor] = []
        for batch in batches:
            if not record.losses:
                record.columns["startup_s"] = _since_launch()
            with self.clock.step(batch):
                loss, logits = trainer.step(batch)
            record.losses.append(loss)
            outputs.append(logits)
            labels.append(batch.labels)
            if len(record.losses) == 1 or (self.thaws is not None and len(outputs) == 1):
                record.columns |= owned_mib(self.model, trainer.optimizer)
            self.progress.step(len(record.losses), total, self._last_loss)
            self.machine.look()
        losses = self._finite_losses()[-len(labels) :]
        if self.gpu is not None:
            self.gpu.look()
        predicted = torch.cat(outputs).cpu().numpy()
        targets = torch.cat(labels).cpu().numpy()
        return float(losses.mean()), score(self.task.metric, predicted, targets)

    def _last_loss(self) -> float:
        loss = float(self.record.losses[-1])
        return loss if math.isfinite(loss) else float(self._finite_losses()[-1])

    def _finite_losses(self) -> NDArray[np.float32]:
        losses: NDArray[np.float32] = torch.stack(self.record.losses).cpu().numpy()
        finite = np.isfinite(losses)
        if not finite.all():
            raise InvalidError(f"the loss is not finite, first at step {finite.argmin() + 1}")
        return losses

    def _predict(self, dev: Split) -> NDArray[np.float32]:
        logits = predict(
            self.model,
            dev.encoded,
            batch_size=self.cell.batch_size,
            amp=self.cell.amp,
            pad_id=self.model.bert.config.pad_token_id,
            device=self.device,
            on_batch=lambda done, of: self.progress.step(done, of, None),
        )
        if not np.isfinite(logits).all():
            raise InvalidError("the dev logits are not finite")
        return logits

    def _totals(self) -> Row:
        joules = [value for value in self.record.joules if value is not None]
        return {
            "tokens_total": sum(step.tokens for step in self.clock.steps()),
            "train_s": self.phases.seconds["train"],
            "eval_s": self.phases.seconds["evaluate"],
            "energy_j": sum(joules) if joules else None,
        }

    def _quality(self) -> Row:
        """Scores after the last epoch; none where the weights were random to begin with."""
        if self.cell.init == "random":
            return {}
        last = self.record.epochs[-1]
        return {
            "dev_metric": self.task.metric,
            "dev_score": last.dev_score,
            "dev_accuracy": last.dev_score if self.task.metric == "accuracy" else None,
            "dev_loss": last.dev_loss,
            "train_loss": last.train_loss,
            "train_score": last.train_score,
        }

    def _write_curves(self) -> None:
        losses = torch.stack(self.record.losses).cpu().tolist()
        write_steps(self.folder, self.clock.steps(), losses)
        write_epochs(self.folder, self.record.epochs)

    def _keep(self) -> None:
        """Leave the trained weights in the cell's folder, in formats other libraries read."""
        if self.cell.rank is not None:
            from adapters.peft_format import save_adapter

            notes = {"pooling": self.cell.pooling, "head": self.cell.head, **self.notes}
            save_adapter(self.model, self.folder / "adapter", self.cell.model, notes)
        else:
            from minbert.checkpoint import save_checkpoint

            save_checkpoint(self.model, self.folder / "checkpoint", Path(self.job.tokenizer))


def _gpu(device: torch.device) -> Gpu | None:
    if device.type != "cuda":
        return None
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if uuid is None else Gpu.of(str(uuid))


def _since_launch() -> float | None:
    launched = os.environ.get(LAUNCHED_AT)
    return time.monotonic() - float(launched) if launched is not None else None
