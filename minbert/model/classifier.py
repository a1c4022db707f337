"""An encoder with task heads, and how weights that no checkpoint brings are drawn.

Letters in shapes: B examples, S tokens in the longest text, H hidden size, C outputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from minbert.model.comparison import Comparison
from minbert.model.config import BertConfig
from minbert.model.encoder import BertEncoder
from minbert.model.heads import HEADS, Head, find_head

POOLINGS: Final = ("pooler", "mean")
SHARED, APART = 1, 2
"""Numbers of encoders."""


@dataclass(frozen=True)
class HeadConfig:
    """What the model gives for a part of a task: how many outputs, of texts or, with `pairs`, of
    two texts that go through the encoder by themselves."""

    outputs: int
    pairs: bool = False


class BertClassifier(nn.Module):
    """Texts, or pairs of texts, to logits: encoder, one vector for each text, and a head.

    A task of several parts has a head for each. What the two texts of a pair have in common is then
    one vector, by a comparison that all parts on pairs share.

    Args:
        config: of each encoder.
        heads: the number of outputs (classes, or 1 for a regression); of a task of several parts
            the head of each.
        pooling: `pooler` ([CLS], dense, tanh) or `mean` over the real tokens, [CLS] and [SEP]
            included, as sentence-transformers does.
        dropout: probability, before each linear layer of heads and comparison.
        head: one of `minbert.model.heads.HEADS`. One that reads tokens replaces the pooling, and
            an encoder whose tokens are all read has no pooler; for pairs, whose vector has no
            tokens, it is the nonlinear one.
        encoders: 1, or 2: the second for parts on pairs alone, if there are others.

    Raises:
        ValueError: for an argument that is none of those.
    """

    def __init__(
        self,
        config: BertConfig,
        heads: int | Mapping[str, HeadConfig],
        *,
        pooling: str,
        dropout: float,
        head: str = "linear",
        encoders: int = SHARED,
    ) -> None:
        if pooling not in POOLINGS:
            raise ValueError(f"no pooling is called {pooling!r}; there are {', '.join(POOLINGS)}")
        if encoders not in (SHARED, APART):
            raise ValueError(f"{encoders} encoders: there can be 1 or 2")
        if not heads:
            raise ValueError("a model needs a head with an output")
        super().__init__()
        width, by_pooler = config.hidden_size, pooling == "pooler"
        self.dropout = dropout
        self.heads = {"": HeadConfig(heads)} if isinstance(heads, int) else dict(heads)
        made = {
            part: find_head(_kind(head, of), width, of.outputs, dropout)
            for part, of in self.heads.items()
        }
        # an adapter may stand in a head's place later
        self.reads_tokens = {part: of.reads_tokens for part, of in made.items()}
        of_pairs = [of.pairs for of in self.heads.values()]
        two = encoders == APART and any(of_pairs) and not all(of_pairs)
        served = [part for part, of in self.heads.items() if not (two and of.pairs)]
        pools = not all(self.reads_tokens[part] for part in served)
        # weights are drawn in this order
        self.bert = BertEncoder(config, pooler=by_pooler and pools)
        self.bert_pairs = BertEncoder(config, pooler=by_pooler) if two else None
        self.comparison = Comparison(width, dropout) if any(of_pairs) else None
        self.classifier: nn.Module = made[""] if "" in made else nn.ModuleDict(made)

    def head_of(self, part: str) -> Head:
        """The head of a part, or the only one."""
        found: Head = self.classifier if part == "" else self.classifier.get_submodule(part)  # type: ignore[assignment]
        return found

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        part: str = "",
    ) -> Tensor:
        """Logits [B, C].

        Args:
            input_ids, attention_mask, token_type_ids: as the encoder's; of a part on pairs the
                first texts, and after them the second.
            part: of a task of several parts.
        """
        head, pairs = self.head_of(part), self.heads[part].pairs
        encoder = self.bert_pairs if pairs and self.bert_pairs is not None else self.bert
        by_token = self.reads_tokens[part]
        first_only = encoder.pooler is not None and not by_token
        hidden = encoder(input_ids, attention_mask, token_type_ids, first_only=first_only)
        if by_token:
            exact = torch.promote_types(hidden.dtype, torch.float32)
            found: Tensor = head(hidden.to(exact), attention_mask)
            return found  # [B, C]
        if encoder.pooler is not None:
            pooled = encoder.pooler(hidden)  # [B, H]; of pairs [2 B, H]
        else:
            pooled = mean_of_real(hidden, attention_mask)
        if pairs and self.comparison is not None:
            pooled = self.comparison(*pooled.chunk(2))  # [B, H]
        logits: Tensor = head(pooled)
        return logits


def _kind(head: str, of: HeadConfig) -> str:
    """The head that a part gets; `find_head` refuses what is none."""
    return "nonlinear" if of.pairs and head in HEADS and HEADS[head].reads_tokens else head


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
    """Draw every weight that is on the meta device, as BERT does; the rest stays as it is.

    After `load_encoder` that is the head, and the pooler where the checkpoint had none; without it,
    the whole model. Matrices are normal with the std of the configuration, biases 0, LayerNorm 1
    and 0. Draws come from a generator of their own.
    """
    config = model.config if isinstance(model, BertEncoder) else model.bert.config
    std = config.initializer_range
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.is_meta:
                continue
            value = torch.zeros(parameter.shape, dtype=torch.float32)
            if isinstance(module, nn.LayerNorm) and name == "weight":
                value.fill_(1.0)
            elif value.dim() == 2:
                value.normal_(0.0, std, generator=generator)
            setattr(module, name, nn.Parameter(value))
