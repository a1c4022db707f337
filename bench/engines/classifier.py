"""The model of engine transformers: an encoder of the library with its head, and its layer sets, by
the structure of its repeated blocks."""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import torch
from torch import Tensor, nn

from adapters.names import LAYER_SETS
from bench.common.errors import InputError, cause_of
from bench.common.messages import some_of
from minbert.model.classifier import Classifier, HeadConfig, mean_of_real

ADAPTER: Final = "default"
"""PEFT's name for an adapter without another."""
FIRST_A, FIRST_B = "first_factor_A", "first_factor_B"
"""Buffers of LoRA layers whose initialisation took the first update out of the base weight."""
_BLOCK: Final = re.compile(r".*\.\d+\.")
_PROJECTION: Final = re.compile(
    r"(?:w|to_)?(q|k|v|query|key|value)(?:_?(?:proj|lin|linear|layer))?", re.IGNORECASE
)
_FUSED: Final = re.compile(
    r"(?:w|to_)?(?:qkv|query_key_value|in_proj|c_attn)(?:_?(?:proj|lin|linear))?", re.IGNORECASE
)
_MOST_NAMED: Final = 20


@dataclass(frozen=True)
class Blocks:
    """The linear layers of an encoder's blocks, by their names within a block, in the order of
    their definition."""

    layers: Mapping[str, list[str]]  # names in the model, one for each block
    attentions: Sequence[tuple[str, ...]]  # query, key and value of each attention in a block
    last: str  # of the feed-forward block

    @property
    def count(self) -> int:
        return max(map(len, self.layers.values()), default=0)

    def adapted(self, layers: str, model: str) -> list[str]:
        """Names in the model of the layers that a layer set adapts, or that end as `layers` says.
        InputError if the structure does not say which they are, or an end matches none."""
        if layers not in LAYER_SETS:
            names = self._ending(layers, model)
        elif layers.startswith("all-lin"):
            names = set(self.layers)
        elif len(self.attentions) == 1:
            names = set(self.attentions[0])
        else:
            what = "has no linear layers for" if not self.attentions else "has several for"
            ends = [name.rpartition(".")[2] for name in self.layers]
            raise InputError(
                f"layers {layers}: a block of {model} {what} query, key and value; its linear "
                f"layers are {listed(self.layers)}; name some in a grid file: layers = "
                f'["{"+".join(dict.fromkeys(ends[:2]))}"]'
            )
        if not names:
            raise InputError(f"layers {layers}: the blocks of {model} have no linear layers")
        return [name for own, all_of in self.layers.items() if own in names for name in all_of]

    def _ending(self, layers: str, model: str) -> set[str]:
        chosen: set[str] = set()
        for end in layers.split("+"):
            ending = {name for name in self.layers if f".{name}".endswith(f".{end}")}
            if not ending:
                raise InputError(
                    f"layers {layers}: {model} has no linear layer whose name ends in {end}; "
                    f"they are {listed(self.layers)}"
                )
            chosen |= ending
        return chosen

    def __str__(self) -> str:
        attention = [name for names in self.attentions for name in names]
        others = [name for name in self.layers if name not in attention]
        return f"query, key, value: {listed(attention) or 'none'}; others: {listed(others)}"


def find_blocks(encoder: nn.Module, prefix: str) -> Blocks:
    """The blocks of an encoder, called `prefix` in its model: its linear layers with a number in
    their name, which is the block's. Query, key and value are known by their names, and have to
    fit by their shapes."""
    layers: dict[str, list[str]] = {}
    shapes: dict[str, tuple[int, int]] = {}  # outputs and inputs, by name within a block
    for name, layer in encoder.named_modules(prefix=prefix):
        if isinstance(layer, nn.Linear) and (start := _BLOCK.match(name)):
            own = name[start.end() :]
            layers.setdefault(own, []).append(name)
            shapes[own] = layer.out_features, layer.in_features
    parts: dict[str, dict[str, str]] = {}  # of query, key and value, by the module they are in
    attentions: list[tuple[str, ...]] = []
    for name in layers:
        owner, _, last = name.rpartition(".")
        if part := _PROJECTION.fullmatch(last):
            parts.setdefault(owner, {})[part[1][0].lower()] = name
        elif _FUSED.fullmatch(last) and shapes[name][0] > shapes[name][1]:
            attentions.append((name,))
    for own in parts.values():
        if len(own) < len("qkv"):
            continue
        query, key, value = (own[part] for part in "qkv")
        is_everywhere = len({len(layers[name]) for name in (query, key, value)}) == 1
        fits = shapes[query][0] % shapes[key][0] == 0  # several heads may share a key
        if is_everywhere and fits:
            attentions.append((query, key, value))
    rest = [name for name in layers if not any(name in names for names in attentions)]
    # the feed-forward block ends with the layer that leads back from its width
    narrowing = [name for name in rest if shapes[name][0] < shapes[name][1]]
    last = max(narrowing, key=lambda name: shapes[name][1], default="".join(rest[-1:]))
    return Blocks(layers, attentions, last)


def listed(names: Iterable[str]) -> str:
    return some_of(list(names), _MOST_NAMED)


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
