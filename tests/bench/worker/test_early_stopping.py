"""Early stopping: by which examples it decides, when training ends, and with which weights."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from bench.worker.process import Progress
from bench.worker.run import CellRun
from bench.worker.weights import EarlyStopping
from minbert.data.tasks import load_data
from minbert.training.losses import mean_loss
from tests.bench.tiny_cells import PARTS, csv_rows, ended
from tests.bench.worker.test_worker import ALL_EXAMPLES, job_on
from tests.cs224n import relabel, write_folder


def after(patience, results):
    """The epochs that run, the best one, and the weight restored, which is the epoch's number."""
    weight = nn.Parameter(torch.zeros(1))
    stopping = EarlyStopping([weight], patience)
    for epoch, (loss, score) in enumerate(results, start=1):
        weight.data.fill_(epoch)
        stopping.take(loss, score)
        if stopping.is_over:
            break
    assert stopping.restore() == (stopping.best < epoch)
    return epoch, stopping.best, weight.item()


@pytest.mark.parametrize(
    ("patience", "results", "ended"),
    [
        (2, [(1, 0.5), (1, 0.6), (1, 0.6), (1, 0.55), (1, 0.9)], (4, 2, 2)),
        (1, [(1, 0.5), (1, 0.7), (1, 0.6), (1, 0.9)], (3, 2, 2)),
        (2, [(1, 0.5), (0.9, 0.5), (0.95, 0.5), (0.8, 0.5)], (4, 4, 4)),
        (2, [(1, 0.9), (0.1, 0.8), (0.1, 0.8)], (3, 1, 1)),
        (2, [(1, None), (0.9, None), (2, -0.5), (0.1, None)], (4, 3, 3)),
    ],
)
def test_the_best_score_counts_then_the_lowest_loss_then_the_first(patience, results, ended):
    assert after(patience, results) == ended


class Noted(CellRun):
    """Notes weights and predictions after each epoch; scripted held-out scores, if given."""

    def __init__(self, job, folder, scores=None):
        super().__init__(job, folder, Progress(None))
        self.scores = scores
        self.weights: list[dict[str, Tensor]] = []
        self.predictions: list[dict[str, Any]] = []

    def _evaluate(self, loss, fitted):
        epoch = super()._evaluate(loss, fitted)
        self.weights.append({n: p.detach().clone() for n, p in self.model.named_parameters()})
        self.predictions.append({"dev": self.logits, "held": self.held_out_logits})
        if self.scores is not None and epoch.held_out is not None:
            number = len(self.epochs)
            score = self.scores[number] if number < len(self.scores) else 0.0
            epoch.held_out = epoch.held_out[0], score
        return epoch


def cell_run(checkpoint, folder, scores=None, **changes):
    values = {
        "task": "sst", "mode": "lora", "epochs": 6, "held_out": 0.25, "early_stopping": 2,
        "schedule": "linear", "learning_rate": 1e-2, "learning_rate_base": 1e-2,
        "learning_rate_head": 1e-2,
    }  # fmt: skip
    ended = Noted(job_on(checkpoint, folder, **values | changes), folder / "cell", scores)
    ended.run()
    return ended


@pytest.mark.parametrize("mode", ["full", "dora", "head"])
def test_the_weights_of_the_best_epoch_are_those_that_are_scored_and_kept(
    tiny_checkpoint, tmp_path, mode
):
    of_mode = {
        "full": {"learning_rate_base": None, "learning_rate_head": None},
        "head": {"learning_rate": None, "learning_rate_base": None, "unfreeze": None},
    }
    ended = cell_run(
        tiny_checkpoint, tmp_path, [0.2, 0.6, 0.5, 0.4, 0.9], mode=mode, **of_mode.get(mode, {})
    )
    columns, epochs = ended.columns, ended.epochs
    assert (columns["epochs_run"], columns["best_epoch"]) == (4, 2)
    assert len(csv_rows(tmp_path / "cell" / "steps.csv")) == 4 * ended._steps_per_epoch
    best, last = ended.weights[1], ended.weights[3]
    assert not all(torch.equal(best[name], last[name]) for name in best)
    for name, parameter in ended.model.named_parameters():
        assert torch.equal(parameter, best[name]), name
    kept = load_file(tmp_path / "cell" / "predictions.safetensors")
    np.testing.assert_array_equal(kept["logits"], ended.predictions[1]["dev"][""])
    np.testing.assert_array_equal(kept["held_logits"], ended.predictions[1]["held"][""])
    for name in ("dev_score", "dev_loss", "train_loss", "train_score"):
        assert columns[name] == getattr(epochs[1], name), name
    assert columns["train_loss"] != epochs[3].train_loss


def test_epochs_have_the_held_out_scores_that_decide(tiny_checkpoint, tmp_path):
    ended = cell_run(tiny_checkpoint, tmp_path)
    curve = csv_rows(tmp_path / "cell" / "epochs.csv")
    results = [(float(r["held_out_score"]), -float(r["held_out_loss"])) for r in curve]
    best = ended.columns["best_epoch"]
    assert results.index(max(results)) + 1 == best
    assert len(curve) == min(6, int(best) + 2) == ended.columns["epochs_run"]
    kept = load_file(tmp_path / "cell" / "predictions.safetensors")
    right = (kept["held_logits"].argmax(axis=1) == kept["held_labels"]).mean()
    assert results[best - 1][0] == pytest.approx(right)
    loss = mean_loss("cross-entropy", kept["held_logits"], kept["held_labels"])
    assert results[best - 1][1] == pytest.approx(-loss)


def test_dev_decides_nothing(tiny_checkpoint, tmp_path):
    """Other dev labels change no step and not the best epoch."""
    one = cell_run(tiny_checkpoint, tmp_path / "one")
    data = tmp_path / "other" / "data"
    write_folder(data, count=ALL_EXAMPLES)
    for line in range(2, 14):
        relabel(data / "ids-sst-dev.csv", str(line % 2), line)
    digest = load_data("sst", data).digest[:16]
    job = replace(one.job, cell=replace(one.cell, data_digest=digest), data=str(data))
    other = ended(job, tmp_path / "other" / "cell")
    assert [e.dev_loss for e in other.epochs] != [e.dev_loss for e in one.epochs]
    assert torch.equal(torch.stack(other.losses), torch.stack(one.losses))
    assert other.columns["best_epoch"] == one.columns["best_epoch"]


def test_until_it_stops_it_changes_no_step(tiny_checkpoint, tmp_path):
    stopped = cell_run(tiny_checkpoint, tmp_path / "stopped", [0.5, 0.4, 0.3])
    whole = cell_run(tiny_checkpoint, tmp_path / "whole", early_stopping=None)
    steps = len(stopped.losses)
    assert steps == 3 * stopped._steps_per_epoch < len(whole.losses)
    assert torch.equal(torch.stack(stopped.losses), torch.stack(whole.losses)[:steps])
    assert whole.columns["epochs_run"] == 6
    assert whole.columns["best_epoch"] is None
    assert csv_rows(tmp_path / "whole" / "cell" / "epochs.csv")[0].keys() == {
        "epoch", "train_loss", "train_score", "dev_loss", "dev_score",
    }  # fmt: skip


def test_several_parts_are_scored_together(tiny_checkpoint, tmp_path):
    ended = cell_run(tiny_checkpoint, tmp_path, **PARTS)
    curve = csv_rows(tmp_path / "cell" / "epochs.csv")
    best = int(ended.columns["best_epoch"])
    kept = load_file(tmp_path / "cell" / "predictions.safetensors")
    right = [
        ((kept["sst.held_logits"].argmax(axis=1)) == kept["sst.held_labels"]).mean(),
        ((kept["quora.held_logits"][:, 0] > 0) == kept["quora.held_labels"]).mean(),
        (1 + np.corrcoef(kept["sts.held_logits"][:, 0], kept["sts.held_labels"])[0, 1]) / 2,
    ]
    assert float(curve[best - 1]["held_out_score"]) == pytest.approx(np.mean(right), abs=1e-6)
