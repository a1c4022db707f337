"""Each kernel beside torch's own operators, on a batch of 64 sentences of 29 tokens in minilm."""

from functools import partial

import pytest
import torch
from torch import nn

from minbert.data.batches import Batch
from minbert.kernels.attention import attention
from minbert.kernels.dropout import add_and_normalise, dropout
from minbert.kernels.products import sum_over_tokens, thin_over_tokens, times
from minbert.kernels.reference import kernels
from minbert.model.config import GEOMETRIES
from tests.benchmarks.conftest import CLASSES, RANK, trainer_of

SENTENCES, LENGTH, HIDDEN, WIDE, HEADS, DROPPED = 64, 29, 384, 1536, 12, 0.1
WAYS = pytest.mark.parametrize("way", ["reference", "fast"], ids=["torch", "kernel"])
TOKENS = SENTENCES * LENGTH
PRODUCTS = {
    "x Wᵀ": (lambda x, w: x @ w.t(), times, (TOKENS, HIDDEN), (WIDE, HIDDEN)),
    f"Gᵀ (x Aᵀ) of rank {RANK}": (
        lambda g, thin: g.t() @ thin, thin_over_tokens, (TOKENS, WIDE), (TOKENS, RANK)
    ),
    "Σ G over tokens": (lambda g: g.sum(dim=0), sum_over_tokens, (TOKENS, WIDE)),
}  # fmt: skip
"""By torch, by the kernel, and the shapes of the operands."""


@WAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("what", [
    *PRODUCTS, "dropout", "attention and its gradient", "attention, its softmax computed twice",
    "LayerNorm(x + dropout(y)) and its gradient",
])  # fmt: skip
def test_kernel(benchmark, way, dtype, what):
    def drawn(*shape):
        return torch.randn(shape).to(dtype)

    benchmark.group = f"{what}, {'fp32' if dtype == torch.float32 else 'bf16'}"
    x, y = (drawn(SENTENCES, LENGTH, HIDDEN).requires_grad_() for _ in range(2))
    if what in PRODUCTS:
        by_torch, kernel, *shapes = PRODUCTS[what]
        operands = [drawn(*shape) for shape in shapes]
        call = partial(by_torch if way == "reference" else kernel, *operands)
    elif what == "dropout":
        call = partial(dropout, drawn(TOKENS, HIDDEN), DROPPED, training=True)
    elif what.startswith("attention"):
        qkv = drawn(SENTENCES, LENGTH, 3 * HIDDEN).requires_grad_()

        def call():
            attention(qkv, None, HEADS, DROPPED, recompute="twice" in what).backward(x.detach())
    else:
        norm = nn.LayerNorm(HIDDEN).requires_grad_(False)

        def call():
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                out = add_and_normalise(x, y, norm, DROPPED, training=True)
            out.backward(torch.ones_like(out))

    with kernels(way):
        benchmark.pedantic(call, rounds=5, warmup_rounds=1)


@WAYS
@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("mode", ["full", "lora", "dora"])
def test_step(benchmark, way, amp, mode):
    """On sentences of like length, one of which is shorter."""
    ids = torch.randint(1000, 30000, (SENTENCES, LENGTH))
    mask = torch.ones_like(ids)
    mask[0, -1] = 0
    labels = torch.randint(0, CLASSES, (SENTENCES,))
    batch = Batch(ids, mask, torch.zeros_like(ids), labels, int(mask.sum()))
    layers = None if mode == "full" else "all-lin-only"
    trainer = trainer_of(GEOMETRIES["minilm"], mode, layers, amp)
    benchmark.group = f"a step of {mode}, {'fp32' if amp == 'off' else amp}"
    with kernels(way):
        benchmark.pedantic(trainer.step, args=(batch,), rounds=2, warmup_rounds=1)
