"""What a worker does in each step and epoch, run in this process on a tiny encoder and folder."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.job import Job
from bench.worker import validity
from bench.worker.multitask import MultitaskRun, PartBatch
from bench.worker.progress import Progress
from bench.worker.record import Epoch
from bench.worker.run import InvalidError
from minbert.checkpoint import save_checkpoint
from minbert.config import GEOMETRIES
from minbert.model import BertClassifier, initialise
from minbert.tasks import load_data
from minbert.training import Trainer
from tests.bench.peer_cells import cell, job_of
from tests.cs224n import write_folder

TOWERS = ("bert", "bert_pairs")
ALL_EXAMPLES = 24
"""Of each part: with batches of so many an epoch is three steps, sst, quora and sts in sequence."""
NO_RATE = 1e-50
"""Nothing in fp32, where an adapter's B begins at 0 and stays there."""


class Watched(MultitaskRun):
    """Notes the part of each step, and by the end of each epoch what has moved since the first."""

    def __init__(self, job: Job, folder: Path) -> None:
        super().__init__(job, folder, Progress(None))
        self.came: list[str] = []
        self.moved: list[set[str]] = []

    def _step(self, trainer: Trainer, batch: PartBatch) -> tuple[Tensor, Tensor]:
        if not self.came:
            self.first = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.came.append(batch.part)
        return super()._step(trainer, batch)

    def _evaluate(self, loss: float, fitted: float | None) -> Epoch:
        named = self.model.named_parameters()
        self.moved.append({name for name, p in named if not torch.equal(p, self.first[name])})
        return super()._evaluate(loss, fitted)

    @property
    def trained_on(self) -> list[str]:
        """The parts of the steps of training, without those of the panel."""
        return self.came[: len(self.record.losses)]


@pytest.fixture(scope="module")
def deep(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of four narrow layers, of which each epoch thaws one."""
    config = replace(
        GEOMETRIES["bert-tiny"], num_hidden_layers=4, hidden_size=16, intermediate_size=32,
        num_attention_heads=2,
    )  # fmt: skip
    model = BertClassifier(config, 5, pooling="pooler", dropout=0.1)
    initialise(model, 0)
    folder = tmp_path_factory.mktemp("checkpoints") / "deep"
    save_checkpoint(model, folder, minilm)
    return folder


def watched(checkpoint: Path, folder: Path, mode: str = "lora", **changes: Any) -> Watched:
    """A cell of all parts on two encoders, of adapters that thaw epoch by epoch, not yet run."""
    data = write_folder(folder / "data", count=ALL_EXAMPLES)
    parts = {"task_rates": "quora=5 sst=4 sts=3", "task_decays": "quora=0.01 sst=0.01 sts=0.01"}
    values = {
        "task": "multitask", "data_digest": load_data("multitask", data).digest[:16],
        "max_train": None, "max_dev": None, "encoders": 2, "batch_size": ALL_EXAMPLES, "epochs": 5,
        "unfreeze": "iterative", "schedule": "halving", "regression_loss": "mse",
        "task_order": "sequential", **parts,
    }  # fmt: skip
    job = job_of(cell(checkpoint, mode, "all-lin", **values | changes), checkpoint)
    home = folder / "cell"
    home.mkdir()
    return Watched(replace(job, data=str(data)), home)


def layers_of(names: set[str], tower: str) -> set[int]:
    """The layers of a tower whose adapters are named, by their B."""
    found = (name.removeprefix(f"{tower}.encoder.layer.") for name in names if "lora_B" in name)
    return {int(rest.partition(".")[0]) for rest in found if rest[0].isdecimal()}


# What has to have moved


@pytest.mark.parametrize(
    ("order", "seed", "last", "moved"),
    [
        ("sequential", 0, "sst", {"bert": {3}, "bert_pairs": set()}),
        ("proportional", 1, "quora", {"bert": set(), "bert_pairs": {3}}),
    ],
)
def test_layers_that_thaw_for_a_batch_that_never_comes_need_not_move(
    deep: Path, tmp_path: Path, order: str, seed: int, last: str, moved: Mapping[str, set[int]]
) -> None:
    """The fourth step begins the second epoch, in which the top layer of both encoders thaws."""
    run = watched(deep, tmp_path, max_steps=4, task_order=order, seed=seed)
    run.run()
    assert set(run.trained_on[:3]) == {"sst", "quora", "sts"}
    assert run.trained_on[3:] == [last]
    assert {tower: layers_of(run.moved[-1], tower) for tower in TOWERS} == moved


@pytest.mark.parametrize(
    ("max_steps", "stuck"),
    [
        (4, {"bert": {3}, "bert_pairs": set()}),
        (5, {"bert": {3}, "bert_pairs": {3}}),
        (7, {"bert": {2, 3}, "bert_pairs": {3}}),
    ],
)
def test_layers_that_do_not_move_though_a_batch_came_are_told(
    deep: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_steps: int,
    stuck: Mapping[str, set[int]],
) -> None:
    """Of seven steps the last, of sst, begins the third epoch: what came in the second counts."""
    monkeypatch.setattr(validity, "_NAMED", 99)
    run = watched(deep, tmp_path, max_steps=max_steps, learning_rate=NO_RATE)
    with pytest.raises(InvalidError, match=r"^nothing was learned in: ") as told:
        run.run()
    names = set(str(told.value).partition(": ")[2].split(", "))
    assert {tower: layers_of(names, tower) for tower in TOWERS} == stuck
    assert all("lora_B" in name for name in names)
