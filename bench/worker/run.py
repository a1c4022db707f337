"""One cell from start to end: load, tokenise, train, evaluate, write what was found."""

import csv
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from bench.job import Job
from bench.probes.memory import cuda_peaks_mib, owned_mib, peak_rss_mib, start_cuda_peaks
from bench.probes.steps import Step, StepClock, counted
from bench.protocol import LAUNCHED_AT
from bench.schema import Row
from bench.worker.progress import Progress
from bench.worker.setup import Split, build_model, load_data, tokenise, trained_groups
from minbert.batches import Batch, prepare_epoch
from minbert.evaluation import predict
from minbert.scores import mean_loss, score
from minbert.training import Trainer


class NotFiniteError(ArithmeticError):
    """The loss became NaN or infinite."""


@dataclass
class Epoch:
    """What an epoch of training gave, on its own batches and then on dev."""

    train_loss: float
    train_score: float | None
    dev_loss: float
    dev_score: float | None


@dataclass
class Record:
    """What is gathered while a cell trains."""

    losses: list[torch.Tensor] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    columns: Row = field(default_factory=dict)
    train_s: float = 0.0
    eval_s: float = 0.0


class CellRun:
    """Runs a job. The columns that it measures are in `record`, as far as it got."""

    def __init__(self, job: Job, folder: Path, progress: Progress) -> None:
        self.job = job
        self.cell = job.cell
        self.folder = folder
        self.progress = progress
        self.record = Record()
        self.device = torch.device(job.device)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        self.clock = StepClock(self.device)

    def run(self) -> Row:
        """Train and evaluate the cell; the measured columns.

        Raises:
            NotFiniteError: when the loss is no longer finite.
        """
        torch.set_num_threads(self.job.threads)
        self.progress.phase("load")
        data = load_data(self.job)
        self.task = data.task
        self.model = build_model(self.job, data.task.num_outputs)
        self.progress.phase("tokenise")
        train, dev = tokenise(self.job, data)
        self._train(train, dev)
        self._write_curves()
        if self.job.keep:
            self._keep()
        return self.record.columns

    def memory(self) -> Row:
        """Peaks of the process so far."""
        return {"peak_rss_mib": peak_rss_mib(), **cuda_peaks_mib(self.device)}

    def _train(self, train: Split, dev: Split) -> None:
        cell, record = self.cell, self.record
        steps_per_epoch = math.ceil(len(train) / cell.batch_size)
        total = steps_per_epoch * cell.epochs
        total = min(total, cell.max_steps) if cell.max_steps is not None else total
        trainer = Trainer(
            self.model,
            trained_groups(self.model, cell),
            kind=self.task.kind,
            total_steps=total,
            warmup=cell.warmup,
            amp=cell.amp,
            device=self.device,
        )
        record.columns |= {
            "params_total": sum(p.numel() for p in self.model.parameters()),
            "params_trainable": sum(p.numel() for p in trainer.parameters),
        }
        torch.manual_seed(cell.seed)
        start_cuda_peaks(self.device)
        logits = np.empty((0, 0), dtype=np.float32)
        for epoch in range(cell.epochs):
            begun = time.perf_counter()
            remaining = total - len(record.losses)
            batches = self._batches(train, epoch)[:remaining]
            loss, fitted = self._train_epoch(trainer, batches, total)
            record.train_s += time.perf_counter() - begun
            begun = time.perf_counter()
            logits = self._predict(dev)
            record.eval_s += time.perf_counter() - begun
            record.epochs.append(
                Epoch(
                    train_loss=loss,
                    train_score=fitted,
                    dev_loss=mean_loss(self.task.kind, logits, dev.targets),
                    dev_score=score(self.task.metric, logits, dev.labels),
                )
            )
            if len(record.losses) >= total:
                break
        record.columns |= self._times() | self.memory() | self._quality()
        # what brings a regression's logits back to the labels' scale
        self.notes = {"target_mean": f"{dev.mean:.9g}", "target_deviation": f"{dev.deviation:.9g}"}
        save_file(
            {"logits": logits, "labels": dev.labels},
            self.folder / "predictions.safetensors",
            metadata=self.notes,
        )

    def _batches(self, train: Split, epoch: int) -> list[Batch]:
        order = np.random.default_rng([self.cell.seed, epoch])
        return prepare_epoch(
            train.encoded,
            train.targets,
            self.cell.batch_size,
            order,
            pad_id=self.model.bert.config.pad_token_id,
            device=self.device,
        )

    def _train_epoch(
        self, trainer: Trainer, batches: Sequence[Batch], total: int
    ) -> tuple[float, float | None]:
        """Mean loss of an epoch's steps, and the metric on its batches as they were trained on."""
        record = self.record
        self.progress.phase("train")
        outputs: list[torch.Tensor] = []
        for batch in batches:
            if not record.losses:
                record.columns["startup_s"] = _since_launch()
            with self.clock.step(batch.tokens, len(batch.labels)):
                loss, logits = trainer.step(batch)
            record.losses.append(loss)
            outputs.append(logits)
            if len(record.losses) == 1:
                record.columns |= owned_mib(self.model, trainer.optimizer)
            self.progress.step(len(record.losses), total, self._last_loss)
        losses = self._finite_losses()[-len(batches) :]
        predicted = torch.cat(outputs).cpu().numpy()
        targets = torch.cat([batch.labels for batch in batches]).cpu().numpy()
        return float(losses.mean()), score(self.task.metric, predicted, targets)

    def _last_loss(self) -> float:
        loss = float(self.record.losses[-1])
        return loss if math.isfinite(loss) else float(self._finite_losses()[-1])

    def _finite_losses(self) -> NDArray[np.float32]:
        losses: NDArray[np.float32] = torch.stack(self.record.losses).cpu().numpy()
        finite = np.isfinite(losses)
        if not finite.all():
            raise NotFiniteError(f"the loss is not finite, first at step {finite.argmin() + 1}")
        return losses

    def _predict(self, dev: Split) -> NDArray[np.float32]:
        self.progress.phase("evaluate")
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
            raise NotFiniteError("the dev logits are not finite")
        return logits

    def _times(self) -> Row:
        steps = self.clock.steps()
        timed = counted(steps)
        columns: Row = {
            "tokens_total": sum(step.tokens for step in steps),
            "steps_timed": len(timed),
            "train_s": self.record.train_s,
            "eval_s": self.record.eval_s,
        }
        spent_ms = sum(step.ms for step in timed)
        if timed:
            columns["ms_per_1k_tokens"] = spent_ms / sum(step.tokens for step in timed) * 1000
            columns["examples_per_s"] = sum(step.examples for step in timed) / spent_ms * 1000
        return columns

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
        steps: list[Step] = self.clock.steps()
        losses = torch.stack(self.record.losses).cpu().tolist()
        _write_csv(
            self.folder / "steps.csv",
            ("step", "ms", "tokens", "examples", "loss"),
            [
                (number, f"{step.ms:.4f}", step.tokens, step.examples, f"{loss:.7g}")
                for number, (step, loss) in enumerate(zip(steps, losses, strict=True), start=1)
            ],
        )
        _write_csv(
            self.folder / "epochs.csv",
            ("epoch", "train_loss", "train_score", "dev_loss", "dev_score"),
            [
                (number, epoch.train_loss, epoch.train_score, epoch.dev_loss, epoch.dev_score)
                for number, epoch in enumerate(self.record.epochs, start=1)
            ],
        )

    def _keep(self) -> None:
        """Leave the trained weights in the cell's folder, in formats other libraries read."""
        self.progress.phase("save")
        if self.cell.rank is not None:
            from adapters.peft_format import save_adapter

            notes = {"pooling": self.cell.pooling, **self.notes}
            save_adapter(self.model, self.folder / "adapter", self.cell.model, notes)
        else:
            from minbert.checkpoint import save_checkpoint

            save_checkpoint(self.model, self.folder / "checkpoint", Path(self.job.tokenizer))


def _since_launch() -> float | None:
    launched = os.environ.get(LAUNCHED_AT)
    return time.monotonic() - float(launched) if launched is not None else None


def _write_csv(path: Path, header: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
