"""transformers, as what our encoder and tokeniser must agree with."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from minbert.model.config import BertConfig
from tests.components import need


def sizes(
    hidden: int, layers: int, heads: int, wide: int, words: int, positions: int, **more: Any
) -> BertConfig:
    return BertConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=wide, vocab_size=words, max_position_embeddings=positions, **more,
    )  # fmt: skip


def without_dropout(probability: float = 0.0) -> dict[str, float]:
    """The probabilities of dropout of a configuration."""
    return dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), probability)


def transformers() -> Any:
    """The library; a test that asks for it skips where it is not installed."""
    found = find_spec("transformers") is not None
    need(found, "transformers (install the extra `transformers`)", component="transformers")
    import transformers

    return transformers


def padded_batch(config: BertConfig, length: int = 12, seed: int = 0) -> tuple[Tensor, ...]:
    """Token ids, a mask with padding at the end of all but the first, and token types."""
    generator = torch.Generator().manual_seed(seed)

    def draw(below: int) -> Tensor:
        return torch.randint(0, below, (3, length), generator=generator)

    lengths = torch.randint(1, length + 1, (3, 1), generator=generator)
    lengths[0] = length
    mask = (torch.arange(length) < lengths).long()
    return draw(config.vocab_size), mask, draw(config.type_vocab_size)
