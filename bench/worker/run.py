"""One cell from start to end: load, tokenise, train, evaluate, measure, write the results.

A task without parts is one of a single part, whose name is "".
"""

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.engines.engine import engine_of, parts_of, task_of
from bench.examples.tokens import cut_columns
from bench.plan.cell import FAST, ON, Columns
from bench.plan.columns import PART_SCORES
from bench.plan.job import Job
from bench.results.overall import overall
from bench.results.protocol import LAUNCHED_AT, MACHINE
from bench.stats.steptimes import STEPS_ENOUGH
from bench.worker import saving, setup
from bench.worker.compiling import AutoCompiledModel, compile_for, longest_bucket, shared_cache
from bench.worker.device import HostCopies, set_up_device
from bench.worker.probes import memory
from bench.worker.probes.counting import measure_work
from bench.worker.probes.gpu import Gpu
from bench.worker.probes.machine import MachineWatch, energy
from bench.worker.probes.products import measure_products
from bench.worker.probes.replay import REPLAY_SHARE, choose, replay
from bench.worker.probes.steps import StepClock
from bench.worker.process import Progress
from bench.worker.saving import Epoch
from bench.worker.setup import Split
from bench.worker.weights import EarlyStopping, Movement
from minbert.data.batches import Batch, collate, plan_epoch
from minbert.data.metrics import score
from minbert.data.tasks import find_task
from minbert.data.words import of_tokens
from minbert.files import write_json
from minbert.kernels.reference import kernels
from minbert.model.classifier import Classifier
from minbert.training.compiled import CompiledModel
from minbert.training.evaluation import predict
from minbert.training.losses import PEARSON, mean_loss
from minbert.training.schedules import schedule_of
from minbert.training.trainer import Trainer

Planned = tuple[str, NDArray[np.int64]]
"""The part and the examples of a batch."""
Order = list[Planned]
"""The batches of a step."""


class InvalidError(ArithmeticError):
    """A training without a valid result: its loss is not finite, or its weights did not move."""


class CellRun:
    """Runs a job.

    Attributes:
        columns, flags: measured so far, also after an error.
        losses: of each step, on the host.
        train, dev, held_out: the examples by part of the task.
        joules: drawn in each epoch's training; None where nothing counts them.
    """

    model: Classifier
    train: dict[str, Split]
    dev: dict[str, Split]
    logits: dict[str, NDArray[np.float32]]

    def __init__(self, job: Job, folder: Path, progress: Progress) -> None:
        self.job = job
        self.cell = job.cell
        self.engine = engine_of(job.cell)
        self.task = task_of(job)
        self.parts = parts_of(job.cell)
        self.factors = setup.factors_of(job.cell)
        self.folder = folder
        self.progress = progress
        self.phases = memory.Phases(progress.phase)
        self.columns: Columns = {}
        self.flags: list[str] = []
        self.losses: list[Tensor] = []
        self.epochs: list[Epoch] = []
        self.joules: list[float | None] = []
        self.held_out: dict[str, Split] = {}
        self.held_out_indices: dict[str, NDArray[np.int64]] = {}
        self.held_out_logits: dict[str, NDArray[np.float32]] = {}
        self.stopping: EarlyStopping | None = None
        self.device = torch.device(job.device)
        # before torch makes a context, whose memory counts as the cell's
        self.gpu = Gpu.of(self.device)
        set_up_device(self.device, tf32=self.cell.tf32 == ON)
        self.clock = StepClock(self.device)
        self.machine = MachineWatch(self.gpu)
        self.losses_kept = HostCopies(self.device)

    def run(self) -> Columns:
        """Train, evaluate and measure the cell; the measured columns. InvalidError when the loss is
        no longer finite, or what trains did not move."""
        with kernels(self.cell.kernels or FAST):
            torch.set_num_threads(self.job.threads)
            self.columns["imports_anon_mib"] = memory.resident_now().anon_mib
            with self.phases.phase("load"):
                self.model = self.engine.build(self.job)
            self.columns["adapter_init_s"] = self.model.adapter_init_s
            with self.phases.phase("tokenise"):
                self._tokenise()
            movement = Movement(self.model, self.engine)
            trainer = self._train()
            saving.write_steps(self.folder, self.clock.steps(), torch.stack(self.losses).tolist())
            saving.write_epochs(self.folder, self.epochs)
            # 1 − r does not depend on the last bias, and some part of a task may have had no batch
            is_whole = self.parts == [""] and self.train[""].loss != PEARSON
            if problem := movement.problem(every=is_whole):
                raise InvalidError(problem)
            if self.job.measure:
                with self.phases.phase("measure"):
                    self._measure(trainer)
            if self.job.keep:
                with self.phases.phase("save"):
                    saving.save_weights(self.model, trainer.parameters, self.folder)
            saving.write_phases(self.folder, self.phases)
        return self.columns

    def _measure(self, trainer: Trainer) -> None:
        """Measure what the training itself does not show: a step's work, and steady step times."""
        chosen, largest, largest_step = self._replayed_batches()
        # so that a step does all its work and changes no weight
        if any(group["lr"] != 0 for group in trainer.optimizer.param_groups):
            raise RuntimeError("measuring would train the model: the learning rate is not zero")
        trainer.mark = lambda: None  # these are no steps of the training
        if not self.cell.is_compiled:  # compiled code does not report what it keeps
            self.columns |= memory.measure_activations(trainer, largest)
            self.columns |= measure_work(lambda: self._step(trainer, *largest_step), self.device)
        machine = self.machine
        # gradual unfreezing changes what a step does: the last kind of step is timed
        if len(self.losses) < STEPS_ENOUGH or self.unfreezing is not None:
            machine = self._replay(trainer, chosen)
        batches = [batch for step in chosen for batch in step]
        self.columns |= measure_products(self.model, batches, self.cell.amp, self.device)
        self.flags += machine.doubts
        write_json(self.folder / MACHINE, machine.report)

    def _replay(self, trainer: Trainer, chosen: Sequence[Sequence[Batch]]) -> MachineWatch:
        """Time steps on a few batches, for a training too short to show its own step times."""
        clock = StepClock(self.device)
        trainer.mark = clock.mark
        with MachineWatch(self.gpu) as machine:

            def on_step(done: int) -> None:
                if done % len(chosen) == 0:
                    machine.look()
                self.progress.step(done, None)

            replayed = replay(
                lambda *batches: self._step(trainer, *batches),
                chosen,
                clock,
                budget_s=REPLAY_SHARE * self.phases.seconds["train"],
                on_step=on_step,
            )
        saving.write_replay(self.folder, replayed)
        return machine

    def memory(self) -> Columns:
        peak = self.phases.peak
        return {
            "peak_rss_mib": peak.rss_mib,
            "peak_anon_mib": peak.anon_mib,
            **memory.cuda_peaks_mib(self.device, graphs=self.cell.is_compiled),
            **(self.gpu.memory if self.gpu is not None else {}),
        }

    def _tokenise(self) -> None:
        splits = setup.examples(self.job)
        self.train = {part: train for part, (train, _) in splits.items()}
        self.dev = {part: dev for part, (_, dev) in splits.items()}
        every = chain.from_iterable(splits.values())
        self.columns |= cut_columns(texts for split in every for texts in split.texts)
        if share := self.cell.held_out:
            for part, split in self.train.items():
                self.train[part], self.held_out[part], self.held_out_indices[part] = (
                    setup.without_held_out(split, share, self.cell.max_length)
                )

    @cached_property
    def _steps_per_epoch(self) -> int:
        size = self.cell.batch_size
        batches = sum(math.ceil(len(split) / size) for split in self.train.values())
        return math.ceil(batches / self.cell.gradient_accumulation_steps)

    def _order(self, epoch: int) -> list[Order]:
        """The part and the examples of the batches of each step of an epoch, from 0."""
        cell, rng = self.cell, np.random.default_rng([self.cell.seed, epoch])
        lengths = {part: split.lengths for part, split in self.train.items()}
        plan = plan_epoch(lengths, cell.batch_size, rng, cell.batching, cell.task_order)
        count = cell.gradient_accumulation_steps
        return [plan[begin : begin + count] for begin in range(0, len(plan), count)]

    def _batch(self, part: str, indices: NDArray[np.int64]) -> Batch:
        split, pad_id = self.train[part], self.model.pad_id
        bucket = longest_bucket(self.cell)
        return collate(split.texts, split.targets, indices, pad_id, self.device, bucket, part)

    def _step(self, trainer: Trainer, *batches: Batch) -> tuple[Tensor, Tensor]:
        """Take a training step on batches of one part; its loss [] and logits [B, C]."""
        trainer.scale_groups(*self.factors[batches[0].part])
        return trainer.step(*batches)

    def _train(self) -> Trainer:
        """Train and evaluate, epoch by epoch, and write the predictions; with early stopping, the
        model has the weights of the best epoch afterwards."""
        cell = self.cell
        steps_per_epoch = self._steps_per_epoch
        total = steps_per_epoch * cell.epochs
        total = min(total, cell.max_steps) if cell.max_steps is not None else total
        compiled: CompiledModel | AutoCompiledModel | None = None
        if cell.is_compiled:
            with self.phases.phase("compile"), shared_cache():
                epochs = math.ceil(total / steps_per_epoch)
                compiled = compile_for(self.model, self.train[""], cell, epochs)
            self.columns["compile_s"] = self.phases.seconds["compile"]
            self.columns["compile_cached"] = compiled.cached
        trainer = Trainer(
            self.model,
            setup.trained_groups(self.model, cell),
            losses={part: split.loss for part, split in self.train.items()},
            class_weights={
                part: weights.to(self.device)
                for part, weights in setup.class_weights(self.train, self.task, cell).items()
            },
            schedule=schedule_of(cell.schedule, total, cell.warmup, steps_per_epoch),
            device=self.device,
            forward=compiled,
            **{name: getattr(cell, name) for name in Trainer.settings},
        )
        trainer.mark = self.clock.mark
        self.unfreezing = setup.unfreezing(self.model, cell)
        if cell.early_stopping is not None:
            self.stopping = EarlyStopping(trainer.parameters, cell.early_stopping)
        saved = [*trainer.parameters, *self.model.fixed_tensors().values()]
        self.columns |= {
            "params_total": sum(p.numel() for p in self.model.parameters()),
            "params_trainable": sum(p.numel() for p in trainer.parameters),
            "saved_mib": sum(tensor.nbytes for tensor in saved) / memory.MIB,
        }
        torch.manual_seed(cell.seed)
        memory.start_cuda_peaks(self.device)
        for epoch in range(cell.epochs):
            if self.unfreezing is not None:
                self.unfreezing.begin(epoch)
            if self.device.type == "cuda" and compiled is None:
                order = self._order(epoch)[: total - len(self.losses)]
                largest = self._batch(*self._largest(order))
                # from the second batch of a step on, gradients and activations exist at once
                trainer.rehearse(*[largest] * min(2, cell.gradient_accumulation_steps))
                torch.cuda.synchronize(self.device)  # so that it is not timed with the first steps
            with self.phases.phase("train"), self.machine, energy(self.gpu) as drawn:
                order = self._order(epoch)[: total - len(self.losses)]
                steps = ([self._batch(*batch) for batch in batches] for batches in order)
                loss, fitted = self._train_epoch(trainer, steps, total)
            self.joules.append(drawn.joules)
            self.columns["energy_source"] = drawn.source
            with self.phases.phase("evaluate"):
                last = self._evaluate(loss, fitted)
                self.epochs.append(last)
                if self.stopping is not None and last.held_out is not None:
                    self.stopping.take(*last.held_out)
            if len(self.losses) >= total or (self.stopping and self.stopping.is_over):
                break
        if self.stopping is not None and self.stopping.restore():
            best = self.epochs[self.stopping.best - 1]
            with self.phases.phase("evaluate"):
                last = self._evaluate(best.train_loss, best.train_score)
        trainer.rest()
        self.columns |= self._totals() | self.memory() | self._quality(last)
        if self.held_out and self.stopping is None:
            with self.phases.phase("evaluate"):
                self.held_out_logits = self._predictions(self.held_out)
        saving.save_predictions(
            self.folder, self.dev, self.logits,
            self.held_out, self.held_out_logits, self.held_out_indices,
        )  # fmt: skip
        return trainer

    def _train_epoch(
        self, trainer: Trainer, steps: Iterable[Sequence[Batch]], total: int
    ) -> tuple[float, float | None]:
        """Mean loss of an epoch's steps, and the score of the predictions made in them."""
        outputs: dict[str, list[tuple[Tensor, Tensor]]] = {}
        outputs_kept = HostCopies(self.device)
        begun = len(self.losses)
        for batches in steps:
            if not self.losses:
                launched = os.environ.get(LAUNCHED_AT)
                startup_s = None if launched is None else time.monotonic() - float(launched)
                self.columns["startup_s"] = startup_s
            with self.clock.step(*batches):
                loss, logits = self._step(trainer, *batches)
            self.losses.append(self.losses_kept.keep(loss))
            part_outputs = outputs.setdefault(batches[0].part, [])
            labels = [batch.labels for batch in batches]
            if self.train[batches[0].part].tags is not None:
                logits, labels = logits.flatten(0, -2), [each.flatten() for each in labels]
            answers = labels[0] if len(labels) == 1 else torch.cat(labels)
            part_outputs.append((outputs_kept.keep(logits), outputs_kept.keep(answers)))
            if len(part_outputs) == 1 and (not begun or self.unfreezing is not None):
                # the most: parts of a task train different parameters, and unfreezing adds some
                for name, mib in memory.owned_mib(self.model, trainer.optimizer).items():
                    self.columns[name] = max(mib, float(self.columns.get(name) or 0.0))
            self.progress.step(len(self.losses), total, self._last_loss)
            self.machine.look()
        losses = self._finite_losses()[begun:]
        if self.gpu is not None:
            self.gpu.look()
        scores: dict[str, float | None] = {}
        for part, pairs in outputs.items():
            predicted, true = (torch.cat(tensors).numpy() for tensors in zip(*pairs, strict=True))
            if self.train[part].tags is not None:
                predicted, true = of_tokens(predicted, true)
            scores[part] = score(self._metric(part), predicted, true)
        return float(losses.mean()), self._score(scores)

    def _last_loss(self) -> float:
        self.losses_kept.wait()
        loss = float(self.losses[-1])
        return loss if math.isfinite(loss) else float(self._finite_losses()[-1])

    def _finite_losses(self) -> NDArray[np.float32]:
        self.losses_kept.wait()
        losses: NDArray[np.float32] = torch.stack(self.losses).numpy()
        finite = np.isfinite(losses)
        if not finite.all():
            raise InvalidError(f"the loss is not finite, first at step {finite.argmin() + 1}")
        return losses

    def _metric(self, part: str) -> str:
        return (find_task(part) if part else self.task).metric

    def _score(self, scores: Mapping[str, float | None]) -> float | None:
        return scores.get("") if self.parts == [""] else overall(scores)

    def _evaluate(self, loss: float, fitted: float | None) -> Epoch:
        """Predict dev and, with early stopping, the held-out examples; the results of the epoch of
        which `_train_epoch` returned `loss` and `fitted`."""
        self.logits = self._predictions(self.dev)
        dev_loss, scores = self._results(self.dev, self.logits)
        held_out = None
        if self.stopping is not None:
            self.held_out_logits = self._predictions(self.held_out)
            other_loss, other_scores = self._results(self.held_out, self.held_out_logits)
            held_out = other_loss, self._score(other_scores)
        return Epoch(
            train_loss=loss,
            train_score=fitted,
            dev_loss=dev_loss,
            dev_score=self._score(scores),
            held_out=held_out,
            parts={PART_SCORES[part]: value for part, value in scores.items() if part},
        )

    def _results(
        self, splits: Mapping[str, Split], logits: Mapping[str, NDArray[np.float32]]
    ) -> tuple[float, dict[str, float | None]]:
        """The mean over the parts of their losses, and the score of each part."""
        losses = [mean_loss(s.loss, logits[part], s.targets) for part, s in splits.items()]
        scores = {
            part: score(self._metric(part), logits[part], split.labels)
            for part, split in splits.items()
        }
        return sum(losses) / len(losses), scores

    def _predictions(self, splits: Mapping[str, Split]) -> dict[str, NDArray[np.float32]]:
        every = {}
        for part, split in splits.items():
            every[part] = predict(
                self.model,
                split.texts,
                batch_size=self.cell.batch_size,
                amp=self.cell.amp,
                device=self.device,
                part=part,
                tags=split.tags,
                on_batch=self.progress.step,
            )
            if not np.isfinite(every[part]).all():
                raise InvalidError("the dev logits are not finite")
        return every

    def _replayed_batches(self) -> tuple[list[list[Batch]], Batch, list[Batch]]:
        """Batches of the first epoch: those of the steps that are replayed, the largest, and those
        of the largest step."""
        order = self._order(0)
        tokens = [
            sum(
                int(encoded.lengths[indices].sum())
                for part, indices in batches
                for encoded in self.train[part].texts
            )
            for batches in order
        ]
        examples = [sum(len(indices) for _, indices in batches) for batches in order]
        chosen = [order[index] for index in choose(tokens, examples)]
        largest_step = max(order, key=lambda batches: sum(map(self._size, batches)))
        return (
            [[self._batch(*batch) for batch in batches] for batches in chosen],
            self._batch(*self._largest(order)),
            [self._batch(*batch) for batch in largest_step],
        )

    def _largest(self, order: Iterable[Order]) -> Planned:
        return max(chain.from_iterable(order), key=self._size)

    def _size(self, batch: Planned) -> int:
        """The tokens of a batch, with padding."""
        part, indices = batch
        split = self.train[part]
        return len(split.texts) * len(indices) * int(split.lengths[indices].max())

    def _totals(self) -> Columns:
        joules = [value for value in self.joules if value is not None]
        return {
            "epochs_run": len(self.epochs),
            "best_epoch": self.stopping.best if self.stopping is not None else None,
            "tokens_total": sum(step.tokens for step in self.clock.steps()),
            "train_s": self.phases.seconds["train"],
            "eval_s": self.phases.seconds["evaluate"],
            "energy_j": sum(joules) if len(joules) == len(self.joules) else None,
        }

    def _quality(self, last: Epoch) -> Columns:
        """Scores of the last epoch, or of the best; none if training began with random weights."""
        if self.cell.init == "random":
            return {}
        return {
            "dev_metric": self.task.metric,
            "dev_score": last.dev_score,
            "dev_accuracy": last.dev_score if self.task.metric == "accuracy" else None,
            **last.parts,
            "dev_loss": last.dev_loss,
            "train_loss": last.train_loss,
            "train_score": last.train_score,
        }
