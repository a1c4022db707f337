"""Both engines do the same: losses, step by step, and the products that a step requires."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.analysis.engines import TOLERANCE, agreements
from bench.engines.engine import engine_of
from bench.plan.cell import Cell
from bench.plan.columns import row_of
from bench.plan.models import engine_version
from bench.plan.rows import Row
from bench.results.protocol import STEPS
from bench.worker.probes.products import required
from bench.worker.progress import Progress
from bench.worker.run import CellRun
from tests.adapters.small import need_peft
from tests.bench.synthetic_rows import HERE
from tests.bench.tiny_cells import cell, job_of

KINDS = [
    ("full", ""), ("lora", "attn-only"), ("lora", "all-lin"), ("dora", "all-lin-only"),
]  # fmt: skip
WRONG: list[dict[str, Any]] = [
    {"alpha": 32.0}, {"learning_rate": 1e-3}, {"weight_decay": 1.0}, {"seed": 1}
]  # fmt: skip
CPU = torch.device("cpu")
Losses = Callable[[Cell], list[float]]


def theirs(ours: Cell) -> Cell:
    """The same cell of engine transformers."""
    return replace(
        ours, engine="transformers", engine_version=engine_version(), attn_implementation="sdpa",
        kernels=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def losses(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Losses:
    """The losses of a cell's steps, which it is trained for once."""
    need_peft()

    @cache
    def train(trained: Cell) -> list[float]:
        folder = tmp_path_factory.mktemp("cell")
        CellRun(job_of(trained, tiny_checkpoint), folder, Progress(None)).run()
        lines = (folder / STEPS).read_text().splitlines()
        return [float(line.rpartition(",")[2]) for line in lines[1:]]

    return train


def row(trained: Cell) -> Row:
    return row_of(trained.columns() | HERE | {"status": "ok", "repeat": 1, "attempt": 1})


def agreement(losses: Losses, ours: Cell, other: Cell) -> Any:
    """The agreement of two cells as if they were of the same settings."""
    by_engine = {"minbert": losses(ours), "transformers": losses(other)}
    rows = [row(ours), row(theirs(ours))]
    (agreed,) = agreements(rows, lambda one: by_engine[one.engine])
    return agreed


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_losses_of_50_steps_agree(
    tiny_checkpoint: Path, losses: Losses, kind: tuple[str, str]
) -> None:
    ours = cell(tiny_checkpoint, *kind, dropout=0.0, epochs=5, max_steps=50)
    agreed = agreement(losses, ours, theirs(ours))
    assert agreed.steps == 50
    assert losses(ours)[0] != losses(ours)[-1]
    assert agreed.agrees, agreed.difference


@pytest.mark.parametrize(
    "changes", [{"pooling": "mean"}, {"amp": "bf16"}, {"batching": "shuffled"}], ids=str
)
def test_losses_agree_in_other_settings(
    tiny_checkpoint: Path, losses: Losses, changes: dict[str, Any]
) -> None:
    ours = cell(tiny_checkpoint, "lora", "all-lin", dropout=0.0, **changes)
    assert agreement(losses, ours, theirs(ours)).agrees


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_different_work_is_detected(
    tiny_checkpoint: Path, losses: Losses, wrong: dict[str, Any]
) -> None:
    ours = cell(tiny_checkpoint, "lora", "all-lin", dropout=0.0)
    agreed = agreement(losses, ours, theirs(replace(ours, **wrong)))
    assert not agreed.agrees
    assert agreed.difference > TOLERANCE["off"]


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
@pytest.mark.parametrize("kind", [*KINDS, ("head", "")], ids=" ".join)
def test_both_engines_require_the_same_products(
    tiny_checkpoint: Path, kind: tuple[str, str], pooling: str
) -> None:
    need_peft()
    ours = cell(tiny_checkpoint, *kind, pooling=pooling)
    run = CellRun(job_of(ours, tiny_checkpoint), Path(), Progress(None))
    run.model = run.engine.build(run.job)
    run._tokenise()
    steps, *_ = run._replayed_batches()
    batches = [batch for step in steps for batch in step]
    models = [run.model, engine_of(theirs(ours)).build(job_of(theirs(ours), tiny_checkpoint))]
    one, other = (required(model, batches, "off", CPU) for model in models)
    assert one == other
