"""Each kernel beside torch's own operators, on a batch of 64 sentences of 29 tokens in minilm.

`pytest --benchmark-only tests/benchmarks/test_kernels.py` prints them in pairs, with their ratio.
"""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from bench.engines import minbert
from bench.plan.job import Job
from bench.worker.setup import trained_groups
from minbert.kernels.attention import attention
from minbert.kernels.dropout import dropout
from minbert.kernels.products import sum_over_tokens, thin_over_tokens, times
from minbert.kernels.reference import kernels
from minbert.kernels.residual import add_and_normalise
from minbert.training.schedules import linear_schedule
from minbert.training.trainer import Trainer
from tests.bench.synthetic_rows import cell

SENTENCES, LENGTH, HIDDEN, WIDE, HEADS, RANK, DROPPED = 64, 29, 384, 1536, 12, 8, 0.1
WAYS = pytest.mark.parametrize("way", ["torch", "kernel"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


def in_pairs(benchmark, what, run):
    benchmark.group = what
    benchmark.pedantic(run, rounds=9, warmup_rounds=2)


def of(way):
    return kernels("reference") if way == "torch" else nullcontext()


@WAYS
@DTYPES
@pytest.mark.parametrize("what", ["x Wᵀ", f"Gᵀ (x Aᵀ) of rank {RANK}", "Σ G over tokens"])
def test_product(benchmark, way, dtype, what):
    tokens = SENTENCES * LENGTH
    x, w, g, thin = (
        torch.randn(shape).to(dtype)
        for shape in ((tokens, HIDDEN), (WIDE, HIDDEN), (tokens, WIDE), (tokens, RANK))
    )
    plain, own = {
        "x": (lambda: x @ w.t(), lambda: times(x, w)),
        "G": (lambda: g.t() @ thin, lambda: thin_over_tokens(g, thin)),
        "Σ": (lambda: g.sum(dim=0), lambda: sum_over_tokens(g)),
    }[what[0]]
    in_pairs(benchmark, f"{what}, {str(dtype)[6:]}", plain if way == "torch" else own)


@WAYS
@DTYPES
def test_dropout(benchmark, way, dtype):
    x = torch.randn(SENTENCES * LENGTH, HIDDEN).to(dtype)

    def run():
        with of(way):
            dropout(x, DROPPED, training=True)

    in_pairs(benchmark, f"dropout, {str(dtype)[6:]}", run)


@WAYS
@DTYPES
def test_attention(benchmark, way, dtype):
    qkv = torch.randn(SENTENCES, LENGTH, 3 * HIDDEN).to(dtype).requires_grad_()
    upstream = torch.randn(SENTENCES, LENGTH, HIDDEN).to(dtype)

    def run():
        with of(way):
            attention(qkv, None, HEADS, DROPPED).backward(upstream)

    in_pairs(benchmark, f"attention and its gradient, {str(dtype)[6:]}", run)


@WAYS
@DTYPES
def test_add_and_normalise(benchmark, way, dtype):
    norm = nn.LayerNorm(HIDDEN).requires_grad_(False)
    x = torch.randn(SENTENCES, LENGTH, HIDDEN).to(dtype).requires_grad_()
    y: Tensor = torch.randn(SENTENCES, LENGTH, HIDDEN).to(dtype).requires_grad_()

    def run():
        half = torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32)
        with of(way), half:
            out = add_and_normalise(x, y, norm, DROPPED, training=True)
        out.backward(torch.ones_like(out))

    in_pairs(benchmark, f"LayerNorm(x + dropout(y)) and its gradient, {str(dtype)[6:]}", run)


@WAYS
@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("mode", ["full", "lora", "dora"])
def test_step(benchmark, batch, way, amp, mode):
    adapted = mode != "full"
    wanted = cell(
        mode, 8 if adapted else None, "all-lin-only" if adapted else None, amp,
        model="minilm", init="random",
    )  # fmt: skip
    job = Job(
        cell=wanted, conditions_id="", attempt=1, device="cpu", threads=torch.get_num_threads(),
        checkpoint=None, geometry="minilm", tokenizer="", data=None, keep=False, code_version="",
    )  # fmt: skip
    model = minbert.build(job)
    trainer = Trainer(
        model, trained_groups(model, wanted), losses={"": "cross-entropy"},
        schedule=linear_schedule(1000, 0.1), amp=amp, device=torch.device("cpu"),
    )  # fmt: skip

    def run():
        with of(way):
            trainer.step(batch)

    benchmark.group = f"a step of {mode}, {'fp32' if amp == 'off' else amp}"
    benchmark.pedantic(run, rounds=3, warmup_rounds=1)
