"""Our side: model, adapters and training step exactly as in a cell."""

import math

from bench.peers.request import Request
from bench.plan.job import Job
from bench.worker.compiling import compile_for
from bench.worker.setup import build_model, examples, factors_of, trained_groups
from minbert.data.tasks import Task
from minbert.model.classifier import BertClassifier
from minbert.training.compiled import CompiledModel
from minbert.training.losses import loss_name
from minbert.training.schedules import linear_schedule
from minbert.training.trainer import Trainer


def build(
    job: Job, _request: Request, task: Task, *, total_steps: int, warmup: float
) -> tuple[Trainer, int]:
    """The trainer of a cell, and the id of padding."""
    model = build_model(job)
    trainer = Trainer(
        model,
        trained_groups(model, job.cell),
        losses={"": loss_name(task.kind)},
        schedule=linear_schedule(total_steps, warmup),
        amp=job.cell.amp,
        device=next(model.parameters()).device,
        forward=_compiled(job, model, total_steps) if job.cell.is_compiled else None,
    )
    trainer.scale_groups(*factors_of(job.cell)[""])
    return trainer, model.bert.config.pad_token_id


def _compiled(job: Job, model: BertClassifier, total_steps: int) -> CompiledModel:
    train, _ = examples(job)[""]
    steps_per_epoch = math.ceil(len(train) / job.cell.batch_size)
    return compile_for(model, train, job.cell, math.ceil(total_steps / steps_per_epoch))
