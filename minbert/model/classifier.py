"""An encoder with a task head, and how weights that no checkpoint brings are drawn."""

from typing import Final

import torch
from torch import Tensor, nn

from minbert.model.config import BertConfig
from minbert.model.encoder import BertEncoder
from minbert.model.heads import find_head

POOLINGS: Final = ("pooler", "mean")


class BertClassifier(nn.Module):
    """Token ids to logits: the encoder, one vector for each text, and the head.

    Args:
        config: of the encoder.
        num_outputs: classes, or 1 for a regression.
        pooling: `pooler` ([CLS], dense, tanh) or `mean` over the real tokens, [CLS] and [SEP]
            included, as sentence-transformers does.
        dropout: probability, before each linear layer of the head.
        head: one of `minbert.model.heads.HEADS`. One that reads tokens replaces the
            pooling, and there is no pooler then.

    Raises:
        ValueError: for another pooling or head.
    """

    def __init__(
        self,
        config: BertConfig,
        num_outputs: int,
        *,
        pooling: str,
        dropout: float,
        head: str = "linear",
    ) -> None:
        if pooling not in POOLINGS:
            raise ValueError(f"no pooling is called {pooling!r}; there are {', '.join(POOLINGS)}")
        super().__init__()
        self.dropout = dropout
        made = find_head(head, config.hidden_size, num_outputs, dropout)
        self.reads_tokens = made.reads_tokens  # an adapter may stand in the head's place
        pooler = pooling == "pooler" and not self.reads_tokens
        self.bert = BertEncoder(config, pooler=pooler)
        self.classifier = made  # after the encoder: weights are drawn in this order

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Logits [B, num_outputs]; arguments as the encoder's."""
        by_first = self.bert.pooler is not None
        hidden = self.bert(input_ids, attention_mask, token_type_ids, first_only=by_first)
        if self.reads_tokens:
            exact = torch.promote_types(hidden.dtype, torch.float32)
            found: Tensor = self.classifier(hidden.to(exact), attention_mask)
            return found  # [B, num_outputs]
        if self.bert.pooler is not None:
            pooled = self.bert.pooler(hidden)  # [B, H]
        else:
            pooled = mean_of_real(hidden, attention_mask)  # [B, H]
        logits: Tensor = self.classifier(pooled)  # [B, num_outputs]
        return logits


def mean_of_real(hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The mean [B, H] of hidden states [B, S, H] over the tokens where the mask [B, S] is 1,
    in fp32 or better."""
    hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    if attention_mask is None:
        return hidden.mean(dim=1)
    real = attention_mask.to(hidden.dtype)[:, :, None]  # [B, S, 1]
    return (hidden * real).sum(dim=1) / real.sum(dim=1)


def initialise(model: BertClassifier | BertEncoder, seed: int) -> None:
    """Draw every weight that has no value yet, as BERT does; the rest stays as it is.

    After `load_encoder` that is the head, and the pooler where the checkpoint had none; without it,
    the whole model.
    """
    config = model.config if isinstance(model, BertEncoder) else model.bert.config
    draw(model, config.initializer_range, seed)


@torch.no_grad()
def draw(model: nn.Module, deviation: float, seed: int) -> None:
    """Draw the weights of a model that are on the meta device.

    Matrices are normal with that deviation, biases 0, LayerNorm 1 and 0. Draws come from a
    generator of their own.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.is_meta:
                continue
            value = torch.zeros(parameter.shape, dtype=torch.float32)
            if isinstance(module, nn.LayerNorm) and name == "weight":
                value.fill_(1.0)
            elif value.dim() == 2:
                value.normal_(0.0, deviation, generator=generator)
            setattr(module, name, nn.Parameter(value))
