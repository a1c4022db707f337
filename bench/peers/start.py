"""The initial weights of all sides, in the formats that the baselines read."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from adapters.injection import training_of
from adapters.peft_format import save_adapter
from bench.peers.request import ADAPTER
from bench.plan.job import Job
from bench.worker.setup import build_model
from minbert.model.checkpoint import save_checkpoint


def write_start(cells: Sequence[Path], checkpoint: Path) -> bool:
    """Write encoder and head once, and the adapter of each cell that has one to the cell's folder.

    In fp32, from which each side converts weights that it holds in another type.

    Returns:
        Whether the pooler, if there is one, is newly initialised.
    """
    job = Job.read(cells[0])
    exact = replace(job.cell, amp="off", frozen_dtype=None)
    plain = replace(exact, mode="full", rank=None, layers=None, alpha=None)
    model = build_model(replace(job, cell=plain, device="cpu"))
    save_checkpoint(model, checkpoint, Path(job.tokenizer))
    new_pooler = training_of(model).new_pooler
    whole = ["classifier", *(["bert.pooler"] if new_pooler and model.bert.pooler else [])]
    for folder in cells:
        job = Job.read(folder)
        if job.cell.rank is not None:
            cell = replace(job.cell, amp="off", frozen_dtype=None)
            adapted = build_model(replace(job, cell=cell, device="cpu"))
            save_adapter(adapted, folder / ADAPTER, job.cell.model, whole=whole)
    return new_pooler
