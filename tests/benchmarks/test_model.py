"""Loading minilm, an encoder forward, and a training step of each mode, as a cell runs them."""

from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.job import Job
from bench.worker.setup import build_model, trained_groups
from minbert.batches import Batch
from minbert.checkpoint import load_encoder
from minbert.config import GEOMETRIES, BertConfig
from minbert.encoder import BertEncoder
from minbert.model import BertClassifier, initialise
from minbert.training import Trainer, autocast
from tests.bench.synthetic_rows import cell

MODES = {
    "full": ("full", None, None),
    "head": ("head", None, None),
    "lora-r8-all-lin-only": ("lora", 8, "all-lin-only"),
    "dora-r8-all-lin-only": ("dora", 8, "all-lin-only"),
}


def test_load(benchmark: BenchmarkFixture, minilm: Path) -> None:
    config = BertConfig.from_folder(minilm)

    def load() -> None:
        load_encoder(BertEncoder(config, pooler=False), minilm)

    benchmark(load)


@pytest.mark.parametrize("amp", ["off", "bf16"])
@torch.inference_mode()
def test_forward(benchmark: BenchmarkFixture, batch: Batch, amp: str) -> None:
    model = BertClassifier(GEOMETRIES["minilm"], 5, pooling="mean", dropout=0.0)
    initialise(model, seed=0)
    model.eval()

    def forward() -> None:
        with autocast(amp, torch.device("cpu")):
            model(batch.input_ids, batch.attention_mask, batch.token_type_ids)

    benchmark.extra_info["tokens"] = batch.tokens
    benchmark.pedantic(forward, rounds=10, warmup_rounds=2)


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("mode", MODES)
def test_step(benchmark: BenchmarkFixture, batch: Batch, mode: str, amp: str) -> None:
    of = cell(*MODES[mode], amp, model="minilm", init="random")
    job = Job(
        cell=of, conditions_id="", attempt=1, device="cpu", threads=torch.get_num_threads(),
        checkpoint=None, geometry="minilm", tokenizer="", data=None, keep=False, code_version="",
    )  # fmt: skip
    model = build_model(job, num_outputs=5)
    trainer = Trainer(
        model, trained_groups(model, of), kind="classification", total_steps=1000, warmup=0.1,
        amp=amp, device=torch.device("cpu"),
    )  # fmt: skip
    benchmark.extra_info["tokens"] = batch.tokens
    benchmark.pedantic(trainer.step, args=(batch,), rounds=7, warmup_rounds=2)
