"""A worker's steps and epochs, run in this process on a tiny encoder and folder."""

import re
from dataclasses import replace

import pytest
import torch

from bench.worker.process import Progress
from bench.worker.run import CellRun, InvalidError
from minbert.data.tasks import load_data
from minbert.training.optimizer import Optimizer
from tests.bench.tiny_cells import cell, job_of
from tests.cs224n import write_folder

TOWERS = ("bert", "bert_pairs")
ALL_EXAMPLES = 24
"""Of each part: with batches of so many an epoch is three steps, sst, quora and sts in sequence."""
RATE = 1e-3
NO_RATE = 1e-50
"""Nothing in fp32, where an adapter's B begins at 0 and stays there."""


class Watched(CellRun):
    """Notes the part of each step, and what has moved by the end of each epoch."""

    def __init__(self, job, folder):
        super().__init__(job, folder, Progress(None))
        self.came = []
        self.moved = []

    def _step(self, trainer, batch):
        if not self.came:
            self.first = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.came.append(batch.part)
        return super()._step(trainer, batch)

    def _evaluate(self, loss, fitted):
        named = self.model.named_parameters()
        self.moved.append({name for name, p in named if not torch.equal(p, self.first[name])})
        return super()._evaluate(loss, fitted)

    @property
    def trained_on(self):
        """The parts of the steps of training, without those of the panel."""
        return self.came[: len(self.losses)]


@pytest.fixture
def rates(monkeypatch):
    """The rate that all groups have in each step, as the steps come."""
    seen = []
    step = Optimizer.step

    def told(of):
        (rate,) = {group["lr"] for group in of.param_groups}
        seen.append(rate)
        step(of)

    monkeypatch.setattr(Optimizer, "step", told)
    return seen


def job_on(checkpoint, folder, task, mode, **changes):
    data = write_folder(folder / "data", count=ALL_EXAMPLES)
    values = {
        "task": task, "data_digest": load_data(task, data).digest[:16], "max_train": None,
        "max_dev": None, "schedule": "halving", **changes,
    }  # fmt: skip
    (folder / "cell").mkdir()
    return replace(job_of(cell(checkpoint, mode, "all-lin", **values), checkpoint), data=str(data))


def watched(checkpoint, folder, mode="lora", **changes):
    """A cell of all parts on two encoders that unfreeze epoch by epoch, not yet run."""
    values = {
        "encoders": 2, "batch_size": ALL_EXAMPLES, "epochs": 5, "unfreeze": "iterative",
        "regression_loss": "mse", "task_order": "sequential", "task_rates": "quora=5 sst=4 sts=3",
        "task_decays": "quora=0.01 sst=0.01 sts=0.01",
    }  # fmt: skip
    job = job_on(checkpoint, folder, "multitask", mode, **values | changes)
    return Watched(job, folder / "cell")


def layers_of(names, tower):
    found = (re.match(rf"{tower}\.encoder\.layer\.(\d+)\.", name) for name in names)
    return {int(match[1]) for match in found if match}


@pytest.mark.parametrize(
    ("order", "seed", "last", "moved"),
    [
        ("sequential", 0, "sst", {"bert": {3}, "bert_pairs": set()}),
        ("proportional", 1, "quora", {"bert": set(), "bert_pairs": {3}}),
    ],
)
def test_layers_that_unfreeze_for_a_batch_that_never_comes_need_not_move(
    deep_checkpoint, tmp_path, order, seed, last, moved
):
    """The fourth step begins the second epoch, which unfreezes the top layer of both encoders."""
    run = watched(deep_checkpoint, tmp_path, max_steps=4, task_order=order, seed=seed)
    run.run()
    assert set(run.trained_on[:3]) == {"sst", "quora", "sts"}
    assert run.trained_on[3:] == [last]
    assert {tower: layers_of(run.moved[-1], tower) for tower in TOWERS} == moved


def test_a_training_of_several_parts_that_moves_nothing_is_invalid(deep_checkpoint, tmp_path):
    run = watched(deep_checkpoint, tmp_path, max_steps=4, learning_rate=NO_RATE)
    with pytest.raises(InvalidError, match=r"^nothing was learned in: .*lora_B"):
        run.run()


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_layer_of_both_encoders_unfreezes_in_each_epoch_and_embeddings_last(
    deep_checkpoint, tmp_path, mode
):
    run = watched(deep_checkpoint, tmp_path, mode)
    run.run()
    assert len(run.moved) == 5
    for epoch, moved in enumerate(run.moved):
        assert {"classifier.sst.weight", "classifier.sts.weight"} <= moved
        for tower in TOWERS:
            assert layers_of(moved, tower) == set(range(4 - epoch, 4)), (tower, epoch)
            last = any(name.startswith(f"{tower}.embeddings.") for name in moved)
            assert last == (epoch == 4), (tower, epoch)


def test_a_rate_halves_where_an_epoch_of_all_parts_ends(tiny_checkpoint, tmp_path, rates):
    """24 examples of each part in batches of 16 are two steps each, six in all."""
    values = {"unfreeze": "all", "batch_size": 16, "epochs": 3, "warmup": 0.0}
    run = watched(tiny_checkpoint, tmp_path, "full", **values, learning_rate=RATE)
    run.run()
    factors = [4, 4, 5, 5, 3, 3]
    expected = [RATE * factor / 2**epoch for epoch in range(3) for factor in factors]
    assert rates[: len(run.losses)] == pytest.approx(expected)
