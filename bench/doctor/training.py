"""Training steps on random weights and texts, built from the code that cells run."""

from dataclasses import replace

import torch

from adapters.injection import inject
from minbert.data.batches import Batch
from minbert.model.classifier import BertClassifier, initialise
from minbert.model.config import GEOMETRIES
from minbert.training.losses import CROSS_ENTROPY
from minbert.training.trainer import Group, Trainer

_CLASSES = 5


def make_trainer(geometry: str, amp: str, device: torch.device, vocabulary: int = 1000) -> Trainer:
    """Full fine-tuning of an encoder of a named size on a device."""
    config = replace(GEOMETRIES[geometry], vocab_size=vocabulary)
    model = BertClassifier(config, _CLASSES, pooling="mean", dropout=0.1)
    initialise(model, 0)
    inject(model, mode="full", layers=None, rank=None, alpha=1.0, new_pooler=False, seed=0)
    model.to(device)
    return Trainer(
        model,
        [Group(list(model.parameters()), 1e-4, 0.01)],
        losses={"": CROSS_ENTROPY},
        schedule=lambda _step: 1.0,
        amp=amp,
        device=device,
    )


def make_batch(texts: int, tokens: int, device: torch.device, vocabulary: int = 1000) -> Batch:
    """A batch of texts of the same length."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (texts, tokens), generator=generator).to(device)
    labels = torch.randint(_CLASSES, (texts,), generator=generator).to(device)
    return Batch(ids, None, None, labels, texts * tokens)
