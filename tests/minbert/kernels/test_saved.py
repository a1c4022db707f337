"""Tensors kept for the backward pass, counted by saved-tensor hooks, follow a formula."""

import pytest
import torch

from adapters.injection import inject
from bench.worker.probes.memory import SavedTensors
from minbert.model.classifier import BertClassifier, initialise
from minbert.training.trainer import autocast
from tests.minbert.peers import sizes, without_dropout

B, S = 16, 20
H, WIDE, N, L = 48, 192, 4, 3
CONFIG = sizes(H, L, N, WIDE, 60, 32, **without_dropout(0.1))
SIZE = {"off": 4, "bf16": 2}
MODES = [
    ("full", None),
    *((mode, layers) for layers in ("all-lin-only", "attn-only") for mode in ("lora", "dora")),
]  # fmt: skip


def saved_bytes(mode, layers, amp):
    model = BertClassifier(CONFIG, 5, pooling="mean", dropout=0.0)
    initialise(model, 0)
    rank = None if layers is None else 2
    inject(model, mode=mode, layers=layers, rank=rank, alpha=2, new_pooler=False, seed=0)
    saved = SavedTensors(model.train())
    ids = torch.randint(1, 60, (B, S), generator=torch.Generator().manual_seed(0))
    with saved.counting(), autocast(amp, torch.device("cpu")):
        logits = model(ids, None, torch.zeros_like(ids))
    logits.sum().backward()
    return round(saved.mib * 2**20)


def of_tokens(layers, amp):
    """Bytes that grow with the batch, with dropout, in a layer set or in full fine-tuning.

    For every token, in the type of the product: the input of a layer, q, k and v, the attention's
    result, its projection, the first norm's result, the wide layer before its activation, and the
    projection of that; for every pair of tokens of a sentence a weight; a byte for whatever dropout
    may drop; and two fp32 numbers for each norm. DoRA's outputs are among these. The attention's
    result is kept only if the weight that it is multiplied by is adapted or trains.
    """
    tokens, pairs = B * S, B * N * S * S
    kept = H + 3 * H + (0 if layers == "attn-only" else H) + H + H + WIDE + H
    layer = tokens * (kept * SIZE[amp] + 2 * H + 2 * 2 * 4) + pairs * (SIZE[amp] + 1)
    return L * layer


@pytest.mark.parametrize("amp", SIZE)
@pytest.mark.parametrize(("mode", "layers"), MODES)
def test_what_is_kept_is_a_formula(mode, layers, amp):
    found, expected = saved_bytes(mode, layers, amp), of_tokens(layers, amp)
    # beside it: weights in the type of the product, of each layer, and what does not grow with
    # layers: the embeddings' norm, the pooled texts
    weights = L * (4 * H * H + 2 * H * WIDE)
    beside = weights * (4 if amp == "off" else 4 + 2) + 8 * B * S * H
    assert expected <= found <= expected + beside
