"""Cells of engine minbert with biases alone, cls pooling, checkpointed layers or layers by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.engines.engine import engine_of
from bench.forecast.costs import Variant, totals_of
from bench.forecast.fake import count
from bench.worker.progress import Progress
from bench.worker.run import CellRun
from bench.worker.setup import trained_groups
from bench.worker.trained import load_trained
from minbert.training.evaluation import predict
from tests.bench.forecast.test_counting import check_alike, counted_fake, counted_for_real
from tests.bench.worker.test_worker import job_on
from tests.bench.workloads import ONE, VARIANTS, variant, workload


def run(checkpoint: Path, folder: Path, mode: str, **settings: Any) -> CellRun:
    """A cell after its run, which keeps its weights."""
    folder.mkdir()
    layers = settings.pop("layers", None)
    values = {"epochs": 2, "batch_size": 8, **settings}
    job = replace(job_on(checkpoint, folder, "sst", mode, **values), keep=True)
    if layers is not None:
        job = replace(job, cell=replace(job.cell, layers=layers))
    ended = CellRun(job, folder, Progress(None))
    ended.run()
    return ended


NAMED = {"layers": "query+output.dense", "learning_rate_base": None}


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("bitfit", {}),
        ("bitfit", {"amp": "bf16", "frozen_dtype": "bf16", "pooling": "mean"}),
        ("bitfit", {"unfreeze": "iterative", "epochs": 5, "pooling": "cls"}),
        ("full", {"pooling": "cls"}),
        ("lora", {"pooling": "cls", "amp": "bf16", "frozen_dtype": "fp32", **NAMED}),
        ("dora", {"use_rslora": "on", "lora_dropout": 0.2, **NAMED}),
        ("lora", {"gradient_checkpointing": "on", "lora_dropout": 0.1, **NAMED}),
    ],
)
def test_a_cell_trains_what_it_should_and_its_kept_weights_predict_the_same(
    tiny_checkpoint: Path, tmp_path: Path, mode: str, settings: dict[str, Any]
) -> None:
    ended = run(tiny_checkpoint, tmp_path / "run", mode, **settings)
    groups = engine_of(ended.cell).parameter_groups(ended.model)
    assert not groups["base"] or mode == "full"
    if mode == "bitfit":
        assert {name.rpartition(".")[2] for name in groups["adapter"]} == {"bias"}
        rates = {g.learning_rate for g in trained_groups(ended.model, ended.cell)}
        assert rates == {ended.cell.learning_rate, ended.cell.learning_rate_head}
        decays = {
            g.weight_decay for g in trained_groups(ended.model, ended.cell)
            if g.learning_rate == ended.cell.learning_rate
        }  # fmt: skip
        assert decays == {0.0}
    model = load_trained(ended.job, tmp_path / "run")
    logits = predict(
        model, ended.dev[""].texts, batch_size=8, amp=ended.cell.amp, pad_id=model.pad_id,
        device=torch.device("cpu"),
    )  # fmt: skip
    close = 1e-5 if ended.cell.amp == "off" else 0.05
    np.testing.assert_allclose(logits, ended.logits[""], atol=close)


def test_checkpointing_keeps_less_and_trains_the_same(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    plain = run(tiny_checkpoint, tmp_path / "plain", "full")
    less = run(tiny_checkpoint, tmp_path / "less", "full", gradient_checkpointing="on")
    assert torch.equal(torch.stack(plain.losses), torch.stack(less.losses))
    np.testing.assert_array_equal(plain.logits[""], less.logits[""])
    kept, again = (ended.columns["activations_mib"] for ended in (plain, less))
    assert again < 0.6 * kept
    assert less.columns["step_operators"] > plain.columns["step_operators"]


CHANGES = [
    {"gradient_checkpointing": "on"},
    {"gradient_accumulation_steps": 4},
    {"gradient_accumulation_steps": 2, "gradient_checkpointing": "on"},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("which", [VARIANTS[0], VARIANTS[4], VARIANTS[6]], ids=lambda v: v.mode)
def test_fake_counts_of_the_settings_are_those_of_real_tensors(
    which: Variant, changes: dict[str, Any]
) -> None:
    which = which._replace(**changes)
    accumulated = which.gradient_accumulation_steps
    shapes = {"": replace(ONE[""], accumulated=accumulated)}
    [one], [other] = (
        counted_fake(workload(), shapes, which)[""],
        counted_for_real(workload(), shapes, which)[""],
    )
    check_alike(one, other)


@pytest.mark.parametrize("mode", ["lora", "dora"])
def test_dropout_of_adapters_is_counted(mode: str) -> None:
    which = variant(mode, 2, "all-lin-only")._replace(lora_dropout=0.1)
    [one], [other] = (
        counted_fake(workload(), ONE, which)[""],
        counted_for_real(workload(), ONE, which)[""],
    )
    check_alike(one, other)
    [plain] = count(workload(), ONE, variant(mode, 2, "all-lin-only"))[""]
    assert one.train_peak_mib > plain.train_peak_mib


def test_forecasts_of_checkpointing_have_less_memory_and_more_work() -> None:
    plain, less = variant("full"), variant("full")._replace(gradient_checkpointing="on")
    shapes = {"": replace(ONE[""], train=(40, 60), train_largest=(50, 100))}
    one, other = (totals_of(shapes, count(workload(), shapes, which)) for which in (plain, less))
    assert other.passing_mib < 0.8 * one.passing_mib
    assert 1.2 * one.train.gflop < other.train.gflop < 1.4 * one.train.gflop
    assert other.evaluate == one.evaluate
