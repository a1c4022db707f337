"""Small models without dropout, and their training steps, for the checks that train in-process."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from adapters.injection import inject, parameter_groups
from minbert.data.batches import Batch
from minbert.model.classifier import BertClassifier, initialise
from minbert.model.config import GEOMETRIES, BertConfig
from minbert.training.trainer import Group, Trainer

CONFIG: Final = replace(
    GEOMETRIES["bert-tiny"], vocab_size=1000, hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0, initializer_range=0.1,
)  # fmt: skip
"""Two layers of width 128. Weights are as large as trained ones, so that wrong products show."""
SETTINGS: Final = (
    ("full", None),
    ("head", None),
    *((mode, layers) for mode in ("lora", "dora") for layers in ("attn-only", "all-lin")),
)
"""A mode and its layer set: those that train least and most."""

_CLASSES: Final = 3
_RANK: Final = 4
_ALPHA: Final = 8
"""Twice the rank, so that a path that leaves out the scale differs."""
_SCALE: Final = 1024.0
"""Of fp16's losses: low enough that no step overflows and is skipped."""


def small_model(
    mode: str, layers: str | None, device: str, config: BertConfig = CONFIG
) -> BertClassifier:
    """A classifier in training mode whose adapters already change what it computes."""
    model = BertClassifier(config, _CLASSES, pooling="mean", dropout=0.0)
    initialise(model, 0)
    rank = None if layers is None else _RANK
    inject(model, mode=mode, layers=layers, rank=rank, alpha=_ALPHA, new_pooler=False, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # B is zero at first, which hides the gradient of A
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model.to(device).train()


def small_trainer(
    model: BertClassifier, amp: str, forward: Callable[[Batch], Tensor] | None = None
) -> Trainer:
    """A trainer of everything that a model's mode trains, at a constant rate."""
    parameters = parameter_groups(model).values()
    groups = [Group(tuple(named.values()), 1e-3, 0.01) for named in parameters]
    device = next(model.parameters()).device
    trainer = Trainer(
        model, groups, losses={"": "cross-entropy"}, schedule=lambda _step: 1.0, amp=amp,
        device=device, forward=forward,
    )  # fmt: skip
    if trainer.scaler is not None:
        trainer.scaler = torch.amp.GradScaler(device.type, init_scale=_SCALE)
    return trainer


def small_batch(texts: int, longest: int, device: str, *, masked: bool = True) -> Batch:
    """A batch of random ids, in which each text is a token shorter than the one before.

    Without a mask, all are of one length.
    """
    generator = torch.Generator().manual_seed(longest)
    ids = torch.randint(1, CONFIG.vocab_size, (texts, longest), generator=generator)
    lengths = torch.arange(longest, longest - texts, -1) if masked else torch.tensor([longest])
    mask = (torch.arange(longest) < lengths.clamp(min=1)[:, None]).long().expand(texts, longest)
    own = mask.to(device) if masked else None
    ids, types = (ids * mask).to(device), torch.zeros_like(ids).to(device)
    labels = (torch.arange(texts) % _CLASSES).to(device)
    return Batch(ids, own, types, labels, int(mask.sum()))
