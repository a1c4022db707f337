"""Small models for the tests of adapters: ours, and transformers' with the same weights."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapters.injection import inject
from adapters.layer import AdaptedLinear
from minbert.model.checkpoint import state_dict_for_export
from minbert.model.classifier import BertClassifier, initialise
from tests.encoders import need_transformers
from tests.minbert.peers import sizes, without_dropout

HIDDEN, INTERMEDIATE, LAYERS, CLASSES = 32, 48, 2, 3
ADAPTED = {"mode": "dora", "layers": "all-lin-only", "rank": 4, "alpha": 16.0, "new_pooler": False}


def base_model(pooling: str = "pooler", layers: int = LAYERS) -> BertClassifier:
    """A classifier with random weights of the size that trained ones have, in evaluation mode."""
    more = {"initializer_range": 0.2, **without_dropout()}
    config = sizes(HIDDEN, layers, 4, INTERMEDIATE, 60, 24, **more)
    model = BertClassifier(config, CLASSES, pooling=pooling, dropout=0.0)
    initialise(model, 0)
    return model.eval()


def adapted_model(pooling: str = "pooler", **changes: Any) -> nn.Module:
    """A classifier with adapters; `changes` to the arguments `ADAPTED` of `inject`."""
    model = base_model(pooling)
    inject(model, **{**ADAPTED, "seed": 0, **changes})
    return model


def adapted_layers_of(model: nn.Module) -> dict[str, AdaptedLinear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, AdaptedLinear)}


@torch.no_grad()
def disturb(model: nn.Module, seed: int = 1) -> None:
    """Move every parameter that trains, so that adapters do something."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise.to(parameter), alpha=0.1)


def batch() -> tuple[Tensor, Tensor]:
    """Token ids and a mask with padding, both [5, 9]."""
    ids = torch.randint(1, 60, (5, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    mask[3, 7:] = 0
    return ids, mask


need_peft = need_transformers


def from_peft(folder: Path, *, training: bool = False) -> Any:
    """transformers' model with the adapter that PEFT loads from a folder."""
    need_peft()
    from peft import PeftModel
    from transformers import BertConfig, BertForSequenceClassification

    model = base_model()
    twin = BertForSequenceClassification(BertConfig(**vars(model.bert.config), num_labels=CLASSES))
    twin.load_state_dict(state_dict_for_export(model))
    return PeftModel.from_pretrained(twin, str(folder), is_trainable=training).train(training)
