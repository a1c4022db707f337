"""An encoder with task heads, and the initialisation of weights that no checkpoint has.

Letters in shapes: B examples, S tokens in the longest text, H hidden size, C outputs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final

import torch
from torch import Tensor, nn

from minbert.model.config import BertConfig
from minbert.model.encoder import BertEncoder
from minbert.model.heads import HEADS, ClassificationHead, PairLayers

POOLINGS: Final = ("pooler", "cls", "mean")
_PLACE: Final = re.compile(r"(bert\w*)\.(?:encoder\.layer\.(\d+)\.|embeddings\w*\.|pooler\.)")


@dataclass(frozen=True)
class HeadConfig:
    """The head of a part of a task: its number of outputs, whether it takes pairs of texts, each of
    which goes through the encoder separately, and whether it has outputs for each token."""

    outputs: int
    pairs: bool = False
    by_token: bool = False


class Classifier(nn.Module):
    """A model of any encoder that maps token ids to logits [B, C], or of tokens [B, S, C], as
    `BertClassifier` does.

    Attributes:
        heads: its outputs by part of the task; of a task without parts under "".
        adapter_init_s: the time of adding adapters, s; None without adapters.
    """

    heads: dict[str, HeadConfig]
    pad_id: int
    adapter_init_s: float | None = None

    def fixed_tensors(self) -> dict[str, Tensor]:
        """Tensors that do not train and that the checkpoint does not have, by name."""
        return {}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in chain(self.named_parameters(), self.fixed_tensors().items()):
            if name in tensors:
                tensor.copy_(tensors[name])


class BertClassifier(Classifier):
    """Texts, or pairs of texts, to logits: encoder, one vector for each text, and a head.

    A task of several parts has a head for each part. The two texts of a pair then become one
    vector, by a comparison that all parts on pairs share.

    Args:
        heads: the number of outputs (classes, or 1 for a regression), or the heads of several
            parts.
        pooling: `pooler` (BERT's: [CLS], dense, tanh; in other architectures their own head, which
            has such a layer), `cls` (the last hidden state at [CLS]) or `mean`
            over the real tokens, [CLS] and [SEP] included, as sentence-transformers does.
        dropout: its probability before each linear layer of heads and comparison.
        head: one of `HEADS`. One that reads tokens replaces the pooling, and an encoder that has
            only such heads has no pooler. For pairs, whose vector has no tokens, the nonlinear head
            takes its place.
        encoders: 1 or 2. The second serves the parts on pairs, if there are other parts too.
    """

    def __init__(
        self,
        config: BertConfig,
        heads: int | Mapping[str, HeadConfig],
        *,
        pooling: str,
        dropout: float,
        head: str = "linear",
        encoders: int = 1,
    ) -> None:
        if pooling not in POOLINGS:
            raise ValueError(f"no pooling is called {pooling!r}; there are {', '.join(POOLINGS)}")
        super().__init__()
        own = config.family.head if pooling == "pooler" and head == "linear" else None
        width, by_pooler = config.hidden_size, pooling == "pooler" and config.model_type == "bert"
        self.dropout = dropout
        self.pooling = pooling
        self.pad_id = config.pad_token_id
        self.heads = {"": HeadConfig(heads)} if isinstance(heads, int) else dict(heads)
        for_pairs = "nonlinear" if HEADS[head].reads_tokens else head
        modules = {
            part: HEADS[for_pairs if each.pairs else head](width, each.outputs, dropout)
            if own is None or each.by_token
            else ClassificationHead(width, each.outputs, dropout, own)
            for part, each in self.heads.items()
        }
        # an adapter may replace a head's module later
        self.reads_tokens = {
            part: modules[part].reads_tokens or each.by_token for part, each in self.heads.items()
        }
        on_pairs = [part for part, config in self.heads.items() if config.pairs]
        two = encoders == 2 and 0 < len(on_pairs) < len(self.heads)
        served = [part for part in self.heads if not (two and part in on_pairs)]
        pools = not all(self.reads_tokens[part] for part in served)
        # weights are initialised in this order
        self.bert = BertEncoder(config, pooler=by_pooler and pools)
        self.bert_pairs = BertEncoder(config, pooler=by_pooler) if two else None
        self.comparison = PairLayers(width, dropout) if on_pairs else None
        self.classifier: nn.Module = modules[""] if "" in modules else nn.ModuleDict(modules)

    @property
    def layer_names(self) -> Mapping[str, str]:
        """Names of modules within a layer in its architecture, by those of BERT."""
        return self.bert.config.family.modules

    @property
    def takes_types(self) -> bool:
        return self.bert.config.type_vocab_size > 1

    def format_name(self, name: str) -> str:
        """The name in checkpoints of its architecture of a module or parameter of this model."""
        return self.bert.config.family.name_in_model(name)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        part: str = "",
    ) -> Tensor:
        """Logits [B, C], or [B, S, C] of a head by token, from what the encoder takes; in a part on
        pairs all first texts, and then all second texts."""
        head, pairs = self.classifier.get_submodule(part), self.heads[part].pairs
        encoder = self.bert_pairs if pairs and self.bert_pairs is not None else self.bert
        by_token = self.reads_tokens[part]
        first_only = self.pooling != "mean" and not by_token
        hidden = encoder(input_ids, attention_mask, token_type_ids, first_only=first_only)
        if self.heads[part].by_token:
            return head(hidden)
        if by_token:
            exact = torch.promote_types(hidden.dtype, torch.float32)
            return head(hidden.to(exact), attention_mask)
        if encoder.pooler is not None:
            pooled = encoder.pooler(hidden)  # [B, H]; for pairs [2 B, H]
        elif self.pooling != "mean":
            pooled = hidden[:, 0]
        else:
            pooled = mean_of_real(hidden, attention_mask)
        if pairs and self.comparison is not None:
            pooled = self.comparison(*pooled.chunk(2))  # [B, H]
        return head(pooled)


def place_of(name: str) -> tuple[str, int | None] | None:
    """The encoder of a parameter of this name, such as `bert`, and its layer; no layer for
    embeddings and pooler; None for a parameter of a head."""
    match = _PLACE.match(name)
    return match and (match[1], None if match[2] is None else int(match[2]))


def mean_of_real(hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The mean [B, H] of hidden states [B, S, H] over the tokens where the mask [B, S] is 1,
    in fp32 or better."""
    hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    if attention_mask is None:
        return hidden.mean(dim=1)
    real = attention_mask.to(hidden.dtype)[:, :, None]  # [B, S, 1]
    return (hidden * real).sum(dim=1) / real.sum(dim=1)


@torch.no_grad()
def initialise(model: BertClassifier | BertEncoder, seed: int) -> None:
    """Initialise every weight on the meta device, as BERT does: matrices are normal with the std of
    the configuration, biases 0, LayerNorm 1 and 0. All others stay as they are.

    After `load_encoder` those are the head, and the pooler if the checkpoint has none; without it,
    the whole model. Random numbers come from a separate generator.
    """
    config = model.config if isinstance(model, BertEncoder) else model.bert.config
    std = config.initializer_range
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                setattr(module, name, drawn(name, parameter.shape, std, generator))


def drawn(name: str, shape: torch.Size, std: float, generator: torch.Generator) -> nn.Parameter:
    """A new parameter: matrices are normal, biases 0, and the weights of norms 1."""
    value = torch.zeros(shape)
    if value.dim() == 1 and name == "weight":
        value.fill_(1.0)
    elif value.dim() > 1:
        value.normal_(0.0, std, generator=generator)
    return nn.Parameter(value)
