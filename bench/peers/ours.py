"""Our side: model, adapters and training step exactly as a cell has them."""

from bench.job import Job
from bench.peers.request import Request
from bench.worker.setup import build_model, trained_groups
from minbert.losses import loss_name
from minbert.tasks import Task
from minbert.training import Trainer, linear_schedule


def build(
    job: Job, _request: Request, task: Task, *, total_steps: int, warmup: float
) -> tuple[Trainer, int]:
    """What takes training steps, and the id of padding."""
    model = build_model(job, task.num_outputs)
    trainer = Trainer(
        model,
        trained_groups(model, job.cell),
        loss=loss_name(task.kind),
        schedule=linear_schedule(total_steps, warmup),
        amp=job.cell.amp,
        device=next(model.parameters()).device,
    )
    return trainer, model.bert.config.pad_token_id
