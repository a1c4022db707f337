"""The model of engine transformers: an encoder of the library with its head."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final

import torch
from torch import Tensor, nn

from bench.common.errors import cause_of
from bench.engines.layer_sets import find_blocks
from minbert.model.classifier import Classifier, HeadConfig, mean_of_real

ADAPTER: Final = "default"
"""PEFT's name for an adapter without another."""
FIRST_A, FIRST_B = "first_factor_A", "first_factor_B"
"""Buffers of LoRA layers whose initialisation took the first update out of the base weight."""


class EncoderClassifier(Classifier):
    """An encoder of transformers with its head.

    Args:
        model: the architecture's own model for sequence or token classification, or, with another
            pooling or head, its encoder.
        head: the head on the pooled vector, or on tokens; None: `model` has its own.

    Attributes:
        prefix: the name of the encoder in the architecture's own models.
        blocks: the linear layers of its blocks, as they are before adapters.
        takes_types: whether the encoder distinguishes the texts of a pair by token type.
    """

    def __init__(
        self, model: Any, head: nn.Module | None, *, outputs: HeadConfig, pooling: str
    ) -> None:
        super().__init__()
        vars(self)["model_of_library"] = model  # not a submodule: its children are
        self.model_type = str(model.config.model_type)
        self.prefix = str(model.base_model_prefix)
        self.own_head = head is None
        for name, child in model.named_children() if head is None else [(self.prefix, model)]:
            self.add_module(name, child)
        self.classifier: Any
        if head is not None:
            self.classifier = head
        self.blocks = find_blocks(self.get_submodule(self.prefix), self.prefix)
        # fewer than layers: some layers share their weights
        self.shares_layers = self.blocks.count < getattr(model.config, "num_hidden_layers", 0)
        self.pooling = pooling
        accepted = inspect.signature(model.forward).parameters
        types = int(getattr(model.config, "type_vocab_size", 0) or 0)
        self.takes_types = "token_type_ids" in accepted and types > 1
        self.heads = {"": outputs}
        self.pad_id = int(model.config.pad_token_id or 0)
        self.reads_tokens = bool(getattr(head, "reads_tokens", False))
        self.names: dict[str, set[str]] = {"adapter": set(), "added": set(), "head": set()}
        self.mode = ""

    def train(self, mode: bool = True) -> "EncoderClassifier":
        """As of any module, and of the library's model, of which only the children are here."""
        vars(self)["model_of_library"].train(mode)
        super().train(mode)
        return self

    def fixed_tensors(self) -> dict[str, Tensor]:
        """What PEFT added and does not train, such as VeRA's projections, and the first factors of
        an initialisation that changed the base weights."""
        persistent = self.state_dict().keys()
        return {
            name: tensor.detach()
            for name, tensor in chain(self.named_parameters(), self.named_buffers())
            if name in self.names["added"] and name in persistent and not tensor.requires_grad
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load trained parameters and fixed tensors, and change the base weights accordingly."""
        self._add_first_updates(1.0)
        super().restore(tensors)
        self._add_first_updates(-1.0)

    @torch.no_grad()
    def _add_first_updates(self, sign: float) -> None:
        for name, (a, b) in first_factors(self).items():
            layer: Any = self.get_submodule(name)
            layer.get_base_layer().weight.add_(b @ a, alpha=sign * layer.scaling[ADAPTER])

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        part: str = "",  # noqa: ARG002 (there is one)
    ) -> Tensor:
        given = attention_mask
        if given is None and self.model_type.startswith("deberta"):
            given = torch.ones_like(input_ids)  # which it would make, and wait to look for padding
        types = {"token_type_ids": token_type_ids} if self.takes_types else {}
        model: Any = self.model_of_library
        output = model(input_ids=input_ids, attention_mask=given, **types)
        if self.own_head:
            return output.logits
        hidden = output.last_hidden_state  # [B, S, H]
        if self.reads_tokens:
            exact = torch.promote_types(hidden.dtype, torch.float32)
            return self.classifier(hidden.to(exact), attention_mask)
        pooled = mean_of_real(hidden, attention_mask) if self.pooling == "mean" else hidden[:, 0]
        return self.classifier(pooled)


def first_factors(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of the product that was taken out of the base weights, by names of layers."""
    return {
        name: (getattr(layer, FIRST_A), getattr(layer, FIRST_B))
        for name, layer in model.named_modules()
        if hasattr(layer, FIRST_A)
    }


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        yield


def on_meta(model: EncoderClassifier) -> bool:
    return next(model.get_submodule(model.prefix).parameters()).is_meta


def reason(error: BaseException) -> str:
    """The text of a library's error in one line, or its type."""
    if "weights_only" in str(error):  # torch advises to switch this protection off
        return (
            "its weights are a pickle that holds more than tensors; save them as model.safetensors"
        )
    return cause_of(error)
