"""Layers that are computed again in the backward pass: the same gradients from less memory."""

import pytest
import torch
from torch import nn

from adapters.injection import inject
from bench.worker.probes.memory import SavedTensors
from minbert.kernels.reference import kernels
from minbert.model.classifier import BertClassifier, initialise
from tests.minbert.peers import sizes, without_dropout

CLASSES, LAYERS = 3, 4


def model_of(mode, pooling, checkpointing, **options):
    """A model with random weights and dropout, in training mode."""
    config = sizes(32, LAYERS, 4, 64, 60, 24, initializer_range=0.2, **without_dropout(0.1))
    model = BertClassifier(config, CLASSES, pooling=pooling, dropout=0.1)
    initialise(model, 0)
    adapted = mode in ("lora", "dora")
    inject(
        model, mode=mode, layers="all-lin-only" if adapted else None, rank=4 if adapted else None,
        alpha=8.0, new_pooler=False, seed=0, **options,
    )  # fmt: skip
    model.bert.encoder.gradient_checkpointing = checkpointing
    return model.train()


def step(model, amp):
    """Logits, gradients, and the MiB that the forward pass keeps."""
    ids = torch.randint(1, 60, (6, 20), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[2, 11:] = 0
    saved = SavedTensors(model)
    torch.manual_seed(3)
    with saved.counting(), torch.autocast("cpu", torch.bfloat16, enabled=amp != "off"):
        logits = model(ids, mask)
    nn.functional.cross_entropy(logits.float(), torch.arange(6) % CLASSES).backward()
    named = model.named_parameters()
    return logits, {name: p.grad for name, p in named if p.grad is not None}, saved.mib


@pytest.mark.parametrize(("used", "amp"), [("fast", "off"), ("fast", "bf16"), ("reference", "off")])
@pytest.mark.parametrize(
    ("mode", "pooling", "options"),
    [
        ("full", "pooler", {}), ("head", "mean", {}), ("bitfit", "cls", {}),
        ("lora", "cls", {"lora_dropout": 0.2}), ("dora", "mean", {}),
    ],
)  # fmt: skip
def test_gradients_are_the_same_and_less_is_kept(mode, pooling, options, amp, used):
    with kernels(used):
        logits, gradients, kept = step(model_of(mode, pooling, False, **options), amp)
        again, same, less = step(model_of(mode, pooling, True, **options), amp)
    assert torch.equal(logits, again)
    assert gradients.keys() == same.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, same[name]), name
    if mode == "head":  # nothing is computed again
        assert less <= kept
    else:
        assert less < kept / 2


def test_evaluation_runs_each_layer_once():
    model = model_of("full", "mean", True).eval()
    calls = []
    model.bert.encoder.layer[0].register_forward_pre_hook(lambda *_: calls.append(1))
    ids = torch.ones(2, 5, dtype=torch.int64)
    model(ids).sum().backward()
    assert len(calls) == 1
    model.train()(ids).sum().backward()
    assert len(calls) == 3
