"""BERT's encoder (Devlin et al. 2018, arXiv 1810.04805), as a stack of swappable modules.

Letters in shapes: B sentences in a batch, S tokens in its longest, H hidden size, N heads of
width D = H / N, I intermediate size. Modules and parameters have the names they have in
checkpoints, but for the layers `query`, `key` and `value`: those are one, `qkv`, with their rows
stacked in this order, which makes one product of three.

Modules are built on the meta device, without memory or values: what is loaded from a checkpoint
is never initialised first. `minbert.checkpoint.load_encoder` and `minbert.model.initialise` give
values to parameters.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from minbert.config import BertConfig

_ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


def _table(rows: int, width: int) -> nn.Embedding:
    """An embedding without values: nn.Embedding draws them, which on the meta device costs seconds
    and tens of MiB for what torch imports to do so."""
    empty = torch.empty(rows, width)
    table: nn.Embedding = nn.Embedding.from_pretrained(empty, freeze=False)  # type: ignore[no-untyped-call]
    return table


class Embeddings(nn.Module):
    """The sum of what stands for a token, its position and which text of a pair it is in."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.word_embeddings = _table(config.vocab_size, hidden)
        self.position_embeddings = _table(config.max_position_embeddings, hidden)
        self.token_type_embeddings = _table(config.type_vocab_size, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)  # [S]
        x = self.word_embeddings(input_ids)  # [B, S, H]
        x = x + self.position_embeddings(positions)
        if token_type_ids is None:
            x = x + self.token_type_embeddings.weight[0]
        else:
            x = x + self.token_type_embeddings(token_type_ids)
        normed: Tensor = self.dropout(self.LayerNorm(x))  # [B, S, H]
        return normed


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """softmax(q kᵀ / √D) v by torch's kernel; arguments as `attention`."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """softmax(q kᵀ / √D) v as two products with an fp32 softmax between; as `attention`."""
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)  # [B, N, S, S]
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = F.softmax(scores, dim=-1, dtype=torch.float32)
    weights = F.dropout(weights, dropout)
    return weights.to(v.dtype) @ v  # [B, N, S, D]


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attention of every token to all real tokens of its sentence, [B, N, S, D].

    On a CPU, torch's kernel is the faster one in fp32 and the slower one, by a factor of three and
    more, in half precision, where the operations are spelled out. Under autocast q is half.

    Args:
        q, k, v: [B, N, S, D].
        mask: [B, 1, 1, S], true at real tokens; None where all are real.
        dropout: the probability that a weight of the softmax is dropped.
    """
    half_on_cpu = q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16)
    return (plain_attention if half_on_cpu else fused_attention)(q, k, v, mask, dropout)


class SelfAttention(nn.Module):
    """Multi-head attention up to the concatenated heads."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, hidden = x.shape
        qkv = self.qkv(x)  # [B, S, 3 H]
        qkv = qkv.view(batch, length, 3, self.heads, hidden // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, N, S, D]
        y = attention(q, k, v, mask, self.dropout if self.training else 0.0)
        return y.transpose(1, 2).reshape(batch, length, hidden)  # [B, S, H]


class Residual(nn.Module):
    """A linear layer whose result is added to what its block was given, then normalised."""

    def __init__(self, config: BertConfig, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        y = self.dropout(self.dense(y))  # [B, S, width] to [B, S, H]
        normed: Tensor = self.LayerNorm(x + y)  # [B, S, H]
        return normed


class Attention(nn.Module):
    """The first half of a layer: tokens see each other."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = Residual(config, config.hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.self(x, mask)  # [B, S, H]
        out: Tensor = self.output(y, x)  # [B, S, H]
        return out


class Intermediate(nn.Module):
    """The wide layer and its activation."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = _ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))  # [B, S, I]


class Layer(nn.Module):
    """Attention, then two linear layers on every token by itself."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = Residual(config, config.intermediate_size)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.attention(x, mask)  # [B, S, H]
        y = self.intermediate(x)  # [B, S, I]
        out: Tensor = self.output(y, x)  # [B, S, H]
        return out


class Stack(nn.Module):
    """All layers."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        for layer in self.layer:
            x = layer(x, mask)  # [B, S, H]
        return x


class Pooler(nn.Module):
    """What stands for a whole text: its [CLS], through a linear layer and tanh."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.dense(hidden[:, 0]))  # [B, H]


class BertEncoder(nn.Module):
    """Token ids to hidden states.

    Args:
        config: sizes, activation and dropout.
        pooler: whether it has the pooler. The encoder holds it, as checkpoints do, and does not
            run it: `encoder.pooler(hidden)` does.
    """

    def __init__(self, config: BertConfig, pooler: bool = True) -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):
            self.embeddings = Embeddings(config)
            self.encoder = Stack(config)
            self.pooler = Pooler(config) if pooler else None

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """The last layer's hidden states, [B, S, H]; at padding they mean nothing.

        Args:
            input_ids: token ids [B, S].
            attention_mask: [B, S], 1 or true at real tokens; None where all are real.
            token_type_ids: [B, S], 1 in the second text of a pair; None where there is none.
        """
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None, :]
        x = self.embeddings(input_ids, token_type_ids)  # [B, S, H]
        hidden: Tensor = self.encoder(x, mask)  # [B, S, H]
        return hidden
