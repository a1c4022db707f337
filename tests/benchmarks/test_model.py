"""Loading minilm, and a forward pass of it; steps are in test_kernels.py and test_peers.py."""

from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from minbert.data.batches import Batch
from minbert.model.checkpoint import load_encoder
from minbert.model.classifier import BertClassifier, initialise
from minbert.model.config import GEOMETRIES, BertConfig
from minbert.model.encoder import BertEncoder
from minbert.training.trainer import autocast


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
