"""Cells on the tiny checkpoint, and their jobs."""

import csv
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from bench.machine.conditions import Conditions, find_conditions
from bench.plan.cell import Cell
from bench.plan.job import Job
from bench.plan.models import Model, find_model
from minbert.data.tasks import load_task

EXAMPLES = {"max_train": 96, "max_dev": 24}
PARTS = {
    "task": "multitask", "encoders": 1, "task_order": "round-robin", "regression_loss": "mse",
    "task_rates": "quora=1 sst=1 sts=1", "task_decays": "quora=0 sst=0 sts=0",
}  # fmt: skip
"""Settings of a cell of a task with three parts."""


def conditions() -> Conditions:
    return replace(find_conditions("cpu").conditions, threads=1)


def find(checkpoint: Path) -> Model:
    """The model in a folder, whose files are read once."""
    return _find(checkpoint, max(path.stat().st_mtime_ns for path in checkpoint.iterdir()))


@cache
def _find(checkpoint: Path, _written_ns: int) -> Model:
    return find_model(str(checkpoint), "pretrained", "auto")


@cache
def digest_of(max_train: int, max_dev: int) -> str:
    """The digest, as in cells, of some of `movies`' sentences."""
    return load_task("movies", max_train=max_train, max_dev=max_dev).digest[:16]


def cell(checkpoint: Path, mode: str = "lora", layers: str = "all-lin-only", **changes) -> Cell:
    adapted = mode in ("lora", "dora")
    model = find(checkpoint)
    values = {
        "mode": mode, "rank": 4 if adapted else None, "layers": layers if adapted else None,
        "amp": "off", "seed": 0, "model": model.name, "model_digest": model.digest,
        "init": "pretrained", "pooling": "pooler", "task": "movies",
        "data_digest": digest_of(**EXAMPLES), "max_length": 32,
        "batching": "by-length", "batch_size": 8, "epochs": 1, "max_steps": None,
        "optimizer": "adamw", "learning_rate": None if mode == "head" else 3e-3,
        "learning_rate_base": 1e-3 if adapted and not layers.endswith("-only") else None,
        "learning_rate_head": None if mode == "full" else 1e-3, "learning_rate_source": "grid",
        "weight_decay": 0.01, "warmup": 0.1, "alpha": 16.0 if adapted else None, "dropout": 0.1,
        **EXAMPLES,
    }  # fmt: skip
    of = Cell(**values | changes)
    held = mode != "full" and of.amp != "off" and of.frozen_dtype is None
    return replace(of, frozen_dtype="fp32") if held else of


def job_of(of: Cell, checkpoint: Path | None, geometry: str | None = None) -> Job:
    folder = None if checkpoint is None else str(checkpoint)
    return Job(
        cell=of, conditions_id="0", attempt=1, device="cpu", threads=1, checkpoint=folder,
        geometry=geometry, tokenizer=str(folder), data=None, keep=False, code_version="0",
    )  # fmt: skip


@mock.patch.multiple("bench.worker.probes.replay", WARMUP_PASSES=2, TIMED_PASSES=2, MOST_PASSES=2)
@mock.patch.multiple("bench.worker.probes.products", _MIN_REPEATS=1, _MIN_SECONDS=0.0)
def ended(job: Job, folder: Path, kind: Any = None) -> Any:
    """The job as a `CellRun`, or another kind of it, after its run here, of few repeats."""
    from bench.worker.process import Progress
    from bench.worker.run import CellRun

    folder.mkdir(exist_ok=True)
    run = (kind or CellRun)(job, folder, Progress(None))
    run.run()
    return run


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
