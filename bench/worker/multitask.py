"""A cell of a task with parts, which one model learns together."""

import math
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from adapters.methods import METHODS
from bench.data.tokens import cut_columns
from bench.plan.cell import Row
from bench.plan.columns import PART_SCORES
from bench.plan.job import Job
from bench.plan.parts import from_text
from bench.results.overall import overall
from bench.worker.parts import (
    Texts,
    build_multitask,
    examples_of_parts,
    metric_of,
    part_without_held_out,
)
from bench.worker.probes.panel import choose
from bench.worker.progress import Progress
from bench.worker.record import Epoch
from bench.worker.run import CellRun, Outputs
from bench.worker.setup import trained_groups
from minbert.data.metrics import score
from minbert.files import WEIGHTS
from minbert.training.evaluation import predict_by
from minbert.training.losses import PEARSON, mean_loss
from minbert.training.multitask import MultitaskModel, PairBatch, collate_texts, plan_tasks
from minbert.training.trainer import Group, Trainer


@dataclass(frozen=True)
class PartBatch:
    """A batch, and the part of the task that it is of."""

    part: str
    batch: PairBatch

    @property
    def labels(self) -> Tensor:
        """[B]."""
        return self.batch.labels

    @property
    def tokens(self) -> int:
        """Real ones, of all texts."""
        return self.batch.tokens

    @property
    def padded(self) -> int:
        """Those with padding."""
        return self.batch.padded


class MultitaskRun(CellRun[PartBatch]):
    """Runs a job whose task has parts."""

    model: MultitaskModel

    def __init__(self, job: Job, folder: Path, progress: Progress) -> None:
        super().__init__(job, folder, progress)
        self.rates = from_text(self.cell.task_rates or "")
        self.decays = from_text(self.cell.task_decays or "")
        self.parts = [part for part in self.task.parts if part in self.rates]
        self.held: dict[str, Texts] = {}
        self.held_indices: dict[str, NDArray[np.int64]] = {}

    def _load(self, job: Job) -> MultitaskModel:
        return build_multitask(job, self.parts)

    def _tokenise(self) -> None:
        found = examples_of_parts(self.job, self.parts)
        self.train = {part: train for part, (train, _) in found.items()}
        self.dev = {part: dev for part, (_, dev) in found.items()}
        every = (*self.train.values(), *self.dev.values())
        self.record.columns |= cut_columns(encoded for of in every for encoded in of.texts)
        if share := self.cell.held_out:
            for part, of in self.train.items():
                apart = part_without_held_out(of, share, self.cell.max_length)
                self.train[part], self.held[part], self.held_indices[part] = apart

    def _groups(self) -> list[Group]:
        """Matrices decay by 1, which every step multiplies by the decay of its part."""
        return trained_groups(self.model, self.cell, weight_decay=1.0)

    @property
    def _loss(self) -> str:
        """Steps name their own."""
        return self.train[self.parts[0]].loss

    def _steps_per_epoch(self) -> int:
        return sum(math.ceil(len(of) / self.cell.batch_size) for of in self.train.values())

    def _order(self, epoch: int) -> list[tuple[str, NDArray[np.int64]]]:
        """The part and the examples of each batch of an epoch."""
        cell, rng = self.cell, np.random.default_rng([self.cell.seed, epoch])
        lengths = {part: of.lengths for part, of in self.train.items()}
        return plan_tasks(lengths, cell.batch_size, rng, cell.batching, cell.task_order or "")

    def _batches(self, epoch: int) -> Iterator[PartBatch]:
        return (self._batch(part, indices) for part, indices in self._order(epoch))

    def _batch(self, part: str, indices: NDArray[np.int64]) -> PartBatch:
        return PartBatch(part, self._collate(self.train[part], indices))

    def _collate(self, of: Texts, indices: NDArray[np.int64]) -> PairBatch:
        pad_id = self.model.bert.config.pad_token_id
        return collate_texts(of.texts, of.targets, indices, pad_id, self.device)

    def _part(self, batch: PartBatch) -> str:
        return batch.part

    def _forward(self, batch: PartBatch) -> Tensor:
        logits: Tensor = self.model(batch.part, batch.batch)
        return logits

    def _step(self, trainer: Trainer, batch: PartBatch) -> tuple[Tensor, Tensor]:
        part = batch.part
        trainer.scale_groups(self.rates[part], self.decays[part])
        return trainer.take(lambda: self._forward(batch), batch.labels, self.train[part].loss)

    def _fitted(self, outputs: Outputs) -> float | None:
        return overall({part: score(metric_of(part), *of) for part, of in outputs.items()})

    def _evaluate(self, loss: float, fitted: float | None) -> Epoch:
        self.logits = {part: self._predict(part, of) for part, of in self.dev.items()}
        found = [(part, of, self.logits[part]) for part, of in self.dev.items()]
        losses = [mean_loss(of.loss, logits, of.targets) for _, of, logits in found]
        scores = {part: score(metric_of(part), logits, of.labels) for part, of, logits in found}
        return Epoch(
            train_loss=loss,
            train_score=fitted,
            dev_loss=sum(losses) / len(losses),
            dev_score=overall(scores),
            parts={PART_SCORES[part]: of for part, of in scores.items()},
        )

    def _predict(self, part: str, of: Texts) -> NDArray[np.float32]:
        logits = predict_by(
            self.model,
            of.lengths,
            lambda indices: self.model(part, self._collate(of, indices)),
            batch_size=self.cell.batch_size,
            amp=self.cell.amp,
            device=self.device,
            on_batch=self._told,
        )
        return self._finite(logits)

    def _scores(self) -> Row:
        return dict(self.record.epochs[-1].parts)

    def _predictions(self) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        kept: dict[str, NDArray[Any]] = {}
        for part, of in self.dev.items():
            kept |= {f"{part}.logits": self.logits[part], f"{part}.labels": of.labels}
        if self.held:
            with self._phase("evaluate"):
                logits = {part: self._predict(part, of) for part, of in self.held.items()}
            for part, of in self.held.items():
                kept[f"{part}.held_logits"] = logits[part]
                kept[f"{part}.held_labels"] = of.labels
                kept[f"{part}.held_indices"] = self.held_indices[part]
        return kept, self._notes()

    def _notes(self) -> dict[str, str]:
        """What brings the logits of parts that are regressions back to their labels' scale."""
        found = {}
        for part, of in self.dev.items():
            found[f"{part}.target_mean"] = f"{of.mean:.9g}"
            found[f"{part}.target_deviation"] = f"{of.deviation:.9g}"
        return found

    def _panel(self) -> tuple[list[PartBatch], PartBatch]:
        order = self._order(0)
        sizes = [self._size(part, indices) for part, indices in order]
        tokens = [real for real, _ in sizes]
        chosen = choose(tokens, [len(indices) for _, indices in order])
        largest = max(range(len(order)), key=lambda index: sizes[index][1])
        batches = [self._batch(*order[index]) for index in (*chosen, largest)]
        return batches[:-1], batches[-1]

    def _size(self, part: str, indices: NDArray[np.int64]) -> tuple[int, int]:
        """Tokens of a batch, without padding and with it."""
        of = self.train[part]
        real = sum(int(encoded.lengths[indices].sum()) for encoded in of.texts)
        return real, len(of.texts) * len(indices) * int(of.lengths[indices].max())

    def _unused(self, epoch: int) -> Set[nn.Parameter]:
        """What serves only parts of which no batch came."""
        came = self._came(epoch)
        apart = self.model.bert_pairs is not None
        used = {f"classifier.{part}.": part in came for part in self.parts}
        pairs = any(self.model.aims[part].pairs for part in came)
        used |= {"comparison.": pairs, "bert_pairs.": pairs}
        used["bert."] = not apart or any(not self.model.aims[part].pairs for part in came)
        idle = tuple(prefix for prefix, is_used in used.items() if not is_used)
        return {p for name, p in self.model.named_parameters() if name.startswith(idle)}

    def _came(self, epoch: int) -> set[str]:
        """Parts of which a batch came in an epoch."""
        before = epoch * self._steps_per_epoch()
        return {part for part, _ in self._order(epoch)[: len(self.record.losses) - before]}

    def _idle(self) -> Set[nn.Parameter]:
        heads: dict[str, Any] = {part: self.model.classifier[part] for part in self.parts}
        return {h.last_bias for part, h in heads.items() if self.train[part].loss == PEARSON}

    def _keep(self) -> None:
        """Leave the trained weights: adapters in PEFT's format, whole models as plain tensors by
        their names here."""
        if self.cell.mode in METHODS:
            from adapters.peft_format import save_adapter

            notes = {"pooling": self.cell.pooling, "head": self.cell.head, **self._notes()}
            notes["encoders"] = str(self.cell.encoders)
            save_adapter(self.model, self.folder / "adapter", self.cell.model, notes)
            return
        tensors = {name: of.cpu().contiguous() for name, of in self.model.state_dict().items()}
        path = self.folder / "checkpoint" / WEIGHTS[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata={"format": "pt", **self._notes()})
