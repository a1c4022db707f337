"""A cell of a task without parts."""

import math
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.methods import METHODS
from bench.data.tokens import cut_columns
from bench.plan.cell import Row
from bench.plan.job import Job
from bench.worker.compiling import buckets_of, compile_for, empty_cache
from bench.worker.probes.panel import choose
from bench.worker.record import Epoch
from bench.worker.run import CellRun, Outputs
from bench.worker.setup import Split, build_model, examples, trained_groups, without_held_out
from minbert.data.batches import Batch, collate, plan_training, prepare_epoch
from minbert.data.metrics import score
from minbert.model.classifier import BertClassifier
from minbert.training.evaluation import predict
from minbert.training.losses import PEARSON, loss_name, mean_loss
from minbert.training.trainer import Group, Trainer


class SingleRun(CellRun[Batch]):
    """Runs a job whose task has one head."""

    model: BertClassifier
    held: Split | None = None
    held_indices: NDArray[np.int64]

    def _load(self, job: Job) -> BertClassifier:
        return build_model(job, self.task.num_outputs)

    def _tokenise(self) -> None:
        self.train, self.dev = examples(self.job)
        self.record.columns |= cut_columns([self.train.encoded, self.dev.encoded])
        if self.cell.held_out:
            apart = without_held_out(self.train, self.cell.held_out)
            self.train, self.held, self.held_indices = apart

    def _groups(self) -> list[Group]:
        return trained_groups(self.model, self.cell)

    @property
    def _loss(self) -> str:
        return loss_name(self.task.kind, self.cell.regression_loss)

    def _steps_per_epoch(self) -> int:
        return math.ceil(len(self.train) / self.cell.batch_size)

    def _batches(self, epoch: int) -> Iterator[Batch]:
        return prepare_epoch(
            self.train.encoded,
            self.train.targets,
            self.cell.batch_size,
            np.random.default_rng([self.cell.seed, epoch]),
            pad_id=self.model.bert.config.pad_token_id,
            device=self.device,
            batching=self.cell.batching,
            buckets=buckets_of(self.cell),
        )

    def _forward(self, batch: Batch) -> Tensor:
        logits: Tensor = self.model(batch.input_ids, batch.attention_mask, batch.token_type_ids)
        return logits

    def _compile(self, epochs: int) -> Callable[[Batch], Tensor]:
        with empty_cache(self.folder):
            return compile_for(self.model, self.train, self.cell, epochs)

    def _step(self, trainer: Trainer, batch: Batch) -> tuple[Tensor, Tensor]:
        return trainer.step(batch)

    def _fitted(self, outputs: Outputs) -> float | None:
        return score(self.task.metric, *outputs[""])

    def _evaluate(self, loss: float, fitted: float | None) -> Epoch:
        self.logits = self._predict(self.dev)
        return Epoch(
            train_loss=loss,
            train_score=fitted,
            dev_loss=mean_loss(self._loss, self.logits, self.dev.targets),
            dev_score=score(self.task.metric, self.logits, self.dev.labels),
        )

    def _predict(self, of: Split) -> NDArray[np.float32]:
        logits = predict(
            self.model,
            of.encoded,
            batch_size=self.cell.batch_size,
            amp=self.cell.amp,
            pad_id=self.model.bert.config.pad_token_id,
            device=self.device,
            on_batch=self._told,
        )
        return self._finite(logits)

    def _scores(self) -> Row:
        last = self.record.epochs[-1].dev_score
        return {"dev_accuracy": last if self.task.metric == "accuracy" else None}

    def _predictions(self) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        kept: dict[str, NDArray[Any]] = {"logits": self.logits, "labels": self.dev.labels}
        if self.held is not None:
            with self._phase("evaluate"):
                logits = self._predict(self.held)
            kept |= {"held_logits": logits, "held_labels": self.held.labels}
            kept["held_indices"] = self.held_indices
        return kept, self._notes()

    def _notes(self) -> dict[str, str]:
        """What brings a regression's logits back to the labels' scale."""
        dev = self.dev
        return {"target_mean": f"{dev.mean:.9g}", "target_deviation": f"{dev.deviation:.9g}"}

    def _panel(self) -> tuple[list[Batch], Batch]:
        rng, lengths = np.random.default_rng([self.cell.seed, 0]), self.train.encoded.lengths
        order = plan_training(lengths, self.cell.batch_size, rng, self.cell.batching)
        tokens = [int(lengths[indices].sum()) for indices in order]
        chosen = [order[index] for index in choose(tokens, [len(each) for each in order])]
        largest = max(order, key=lambda indices: len(indices) * int(lengths[indices].max()))
        pad_id, buckets = self.model.bert.config.pad_token_id, buckets_of(self.cell)
        batches = [
            collate(self.train.encoded, self.train.targets, indices, pad_id, self.device, buckets)
            for indices in (*chosen, largest)
        ]
        return batches[:-1], batches[-1]

    def _idle(self) -> Set[nn.Parameter]:
        return {self.model.classifier.last_bias} if self._loss == PEARSON else set()

    def _keep(self) -> None:
        """Leave the trained weights in the cell's folder, in formats other libraries read."""
        if self.cell.mode in METHODS:
            from adapters.peft_format import save_adapter

            notes = {"pooling": self.cell.pooling, "head": self.cell.head, **self._notes()}
            save_adapter(self.model, self.folder / "adapter", self.cell.model, notes)
        else:
            from minbert.model.checkpoint import save_checkpoint

            save_checkpoint(self.model, self.folder / "checkpoint", Path(self.job.tokenizer))
