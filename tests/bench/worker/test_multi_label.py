"""Several labels for a text, from their file of tokens to a worker's predictions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from bench.examples import tokens
from bench.forecast.costs import Variant
from bench.forecast.fake import count
from minbert.data import tasks
from minbert.data.tasks import Examples, Task, TaskData
from tests.bench.tiny_cells import cell, ended, job_of
from tests.bench.worker.test_training_settings import Steps
from tests.bench.workloads import SHAPES

TOPICS = Task("topics", classes=("a", "b", "c"), files=("topics.csv",), problem_name="multi_label")


@pytest.fixture
def data(monkeypatch, tmp_path, minilm):
    """Examples of a task of several labels, whose file exists."""
    monkeypatch.setitem(tasks.TASKS, "topics", TOPICS)
    monkeypatch.setenv("MINBERT_ASSETS", str(minilm.parent))
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "topics.csv").write_text("made up in this test\n")
    labels = np.random.default_rng(0).integers(0, 2, (52, 3)).astype(np.int8)
    texts = tuple(f"good film about {n}" + " nothing" * (n % 6) for n in range(52))
    parts = slice(32), slice(32, None)
    return TaskData(TOPICS, *(Examples(texts[part], None, labels[part]) for part in parts))


def cell_of(data, checkpoint, **changes):
    return cell(
        checkpoint, "full", task="topics", data_digest=data.digest[:16], max_train=None,
        max_dev=None, **changes,
    )  # fmt: skip


def test_a_cell_learns_several_labels(data, tiny_checkpoint, tmp_path):
    from sklearn.metrics import f1_score

    of = cell_of(data, tiny_checkpoint, epochs=2, held_out=0.25, early_stopping=1)
    tokens.make(data, of, tiny_checkpoint, tmp_path / "data")
    job = replace(job_of(of, tiny_checkpoint), data=str(tmp_path / "data"))
    run = ended(job, tmp_path / "cell", Steps)
    columns = run.columns
    assert len(run.train[""]) == 24
    for loss, logits, batch in run.trained:
        assert batch.labels.shape == (8, 3)
        assert torch.equal(loss, nn.BCEWithLogitsLoss()(logits, batch.labels))
    kept = load_file(tmp_path / "cell" / "predictions.safetensors")
    np.testing.assert_array_equal(kept["labels"], data.dev.labels)
    assert kept["labels"].dtype == np.int8
    np.testing.assert_array_equal(kept["held_labels"], data.train.labels[kept["held_indices"]])
    assert kept["logits"].shape == (20, 3)
    assert columns["dev_metric"] == "micro_f1"
    expected = f1_score(data.dev.labels, kept["logits"] > 0, average="micro")
    assert columns["dev_score"] == pytest.approx(expected)
    logits, labels = (torch.from_numpy(kept[name]).double() for name in ("logits", "labels"))
    assert columns["dev_loss"] == pytest.approx(nn.BCEWithLogitsLoss()(logits, labels).item())


def test_its_costs_can_be_counted(data, tiny_checkpoint):
    of = cell_of(data, tiny_checkpoint)
    plain = count(job_of(of, tiny_checkpoint), {"": SHAPES}, Variant.of(of))[""][0]
    assert plain.step.gflop > 0
    kept = replace(of, early_stopping=2)
    copied = count(job_of(kept, tiny_checkpoint), {"": SHAPES}, Variant.of(kept))[""][0]
    size = plain.optimizer_mib / 2  # everything trains, with two averages of each number
    assert copied.weights_mib - plain.weights_mib == pytest.approx(size, rel=1e-3)
    assert copied.peak_mib - plain.peak_mib == pytest.approx(size, rel=1e-3)
