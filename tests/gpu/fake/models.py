"""Small models on fake tensors of a GPU, with what trains them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from adapters.injection import convert_frozen, inject, parameter_groups
from bench.engines.engine import Groups
from bench.forecast.fake import fill
from minbert.data.batches import Batch
from minbert.model.classifier import BertClassifier
from minbert.model.config import GEOMETRIES
from minbert.training.optimizer import ParameterGroup
from minbert.training.schedules import schedule_of
from minbert.training.trainer import HALF, Trainer
from tests.gpu.fake.gpu import GPU

CONFIG = replace(GEOMETRIES["bert-tiny"], vocab_size=1000, hidden_size=32, intermediate_size=64)
CLASSES = 3


def model_of(
    mode: str,
    layers: str | None = None,
    amp: str = "off",
    *,
    model: BertClassifier | None = None,
    pooling: str = "mean",
    head: str = "linear",
    outputs: int = CLASSES,
    held: bool = False,
) -> BertClassifier:
    """A model with its adapters, on the meta device; a classifier unless it is given.

    It has two layers where they differ, since a pooler reads the first token of the last, else one.
    Frozen weights are in AMP's type if `held`.
    """
    if model is None:
        config = CONFIG if pooling == "pooler" else replace(CONFIG, num_hidden_layers=1)
        model = BertClassifier(config, outputs, pooling=pooling, dropout=0.1, head=head)
    rank = None if layers is None else 4
    inject(model, mode=mode, layers=layers, rank=rank, alpha=1.0, new_pooler=False, seed=0)
    if held:
        convert_frozen(model, HALF[amp])
    return model


@contextmanager
def faked(model: nn.Module) -> Iterator[nn.Module]:
    """While it is entered, every tensor is fake, and the model's are on the GPU."""
    with FakeTensorMode():
        fill(model, GPU)
        yield model


def trainer_of(
    model: nn.Module,
    amp: str = "off",
    *,
    optimizer: str = "adamw",
    loss: str = "cross-entropy",
    named: Groups | None = None,
) -> Trainer:
    """A trainer of all parameters that a model's mode trains.

    Args:
        named: these, where the model is not of engine minbert.
    """
    named = named or parameter_groups(model)
    groups = [ParameterGroup(tuple(each.values()), 1e-3, 0.01) for each in named.values()]
    return Trainer(
        model, groups, losses={"": loss}, schedule=schedule_of("linear", 3, 0.0), amp=amp,
        device=GPU, optimizer=optimizer,
    )  # fmt: skip


def batch_of(texts: int = 8, longest: int = 21, *, masked: bool = True) -> Batch:
    """A batch; without a mask its texts are of one length."""
    ids = torch.zeros(texts, longest, dtype=torch.int64, device=GPU)
    mask = torch.ones_like(ids) if masked else None
    return Batch(ids, mask, torch.zeros_like(ids), ids[:, 0], ids.numel())
