"""Cells of engine minbert with biases alone, cls pooling, checkpointed layers or layers by name."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.engines.engine import engine_of
from bench.worker.setup import trained_groups
from bench.worker.trained import load_trained
from tests.bench.tiny_cells import ended
from tests.bench.worker.test_worker import job_on


def run(checkpoint, folder, mode, **settings):
    """A cell after its run, which keeps its weights."""
    folder.mkdir()
    layers = settings.pop("layers", None)
    job = job_on(checkpoint, folder, "sst", mode, **{"epochs": 2, "batch_size": 8, **settings})
    own = replace(job.cell, layers=layers or job.cell.layers)
    return ended(replace(job, cell=own, keep=True), folder)


NAMED = {"layers": "query+output.dense", "learning_rate_base": None}


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("bitfit", {"amp": "bf16", "frozen_dtype": "bf16", "pooling": "mean"}),
        ("bitfit", {"unfreeze": "iterative", "epochs": 5, "pooling": "cls"}),
        ("lora", {"pooling": "cls", "amp": "bf16", "frozen_dtype": "fp32", **NAMED}),
        ("dora", {"use_rslora": "on", "lora_dropout": 0.2, **NAMED}),
        ("lora", {"gradient_checkpointing": "on", "lora_dropout": 0.1, **NAMED}),
    ],
)
def test_a_cell_trains_what_it_should_and_its_kept_weights_predict_the_same(
    tiny_checkpoint, tmp_path, mode, settings
):
    done = run(tiny_checkpoint, tmp_path / "run", mode, **settings)
    groups = engine_of(done.cell).parameter_groups(done.model)
    assert not groups["base"] or mode == "full"
    if mode == "bitfit":
        assert {name.rpartition(".")[2] for name in groups["adapter"]} == {"bias"}
        trained = trained_groups(done.model, done.cell)
        rates = {group.learning_rate for group in trained}
        assert rates == {done.cell.learning_rate, done.cell.learning_rate_head}
        own = [group for group in trained if group.learning_rate == done.cell.learning_rate]
        assert {group.weight_decay for group in own} == {0.0}
    expected, done.model = done.logits[""], load_trained(done.job, tmp_path / "run")
    close = 1e-5 if done.cell.amp == "off" else 0.05
    np.testing.assert_allclose(done._predict("", done.dev[""]), expected, atol=close)


def test_checkpointing_keeps_less_and_trains_the_same(tiny_checkpoint, tmp_path):
    plain = run(tiny_checkpoint, tmp_path / "plain", "full")
    less = run(tiny_checkpoint, tmp_path / "less", "full", gradient_checkpointing="on")
    assert torch.equal(torch.stack(plain.losses), torch.stack(less.losses))
    np.testing.assert_array_equal(plain.logits[""], less.logits[""])
    kept, again = (each.columns["activations_mib"] for each in (plain, less))
    assert again < 0.6 * kept
    assert less.columns["step_operators"] > plain.columns["step_operators"]
