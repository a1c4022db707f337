"""BERT's encoder (Devlin et al. 2018, arXiv 1810.04805), as a stack of swappable modules.

Letters in shapes: B sentences in a batch, S tokens in its longest, H hidden size, N heads of width
D = H / N, I intermediate size. Modules and parameters have their names in checkpoints, except that
the layers `query`, `key` and `value` are one layer, `qkv`, with their rows stacked in this order,
which makes one product of three.

Modules are built on the meta device, without memory or values, so that no weight is initialised
before it is loaded from a checkpoint. `minbert.model.checkpoint.load_encoder` and
`minbert.model.classifier.initialise` give values to parameters.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minbert.kernels.attention import attention, prepare_mask
from minbert.kernels.dropout import add_and_normalise, dropout
from minbert.kernels.linear import Linear
from minbert.kernels.reference import is_eager_on_gpu, is_reference, product_dtype
from minbert.model.config import BertConfig


def _table(rows: int, width: int) -> nn.Embedding:
    """An embedding without values. nn.Embedding would initialise them, for which torch imports
    modules that cost seconds and tens of MiB even on the meta device."""
    empty = torch.empty(rows, width)
    return nn.Embedding.from_pretrained(empty, freeze=False)  # type: ignore[no-untyped-call]


class Embeddings(nn.Module):
    """The sum of the embeddings of a token, its position and its place in a pair of texts, which
    not every architecture has."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.embedding_size or config.hidden_size
        types = config.type_vocab_size
        self.first_position = config.first_position
        self.word_embeddings = _table(config.vocab_size, width)
        positions = config.first_position + config.max_position_embeddings
        self.position_embeddings = _table(positions, width)
        self.token_type_embeddings = _table(types, width) if types else None
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = config.hidden_dropout_prob

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        last = self.first_position + input_ids.shape[1]
        positions = torch.arange(self.first_position, last, device=input_ids.device)  # [S]
        x = self.word_embeddings(input_ids) + self.position_embeddings(positions)  # [B, S, H]
        if (types := self.token_type_embeddings) is not None:
            is_one = token_type_ids is None or types.num_embeddings == 1
            x = x + (types.weight[0] if is_one else types(token_type_ids))
        x = dropout(self.LayerNorm(x), self.dropout, self.training)  # [B, S, H]
        return x if is_reference() or is_eager_on_gpu(x) else x.to(product_dtype(x))


class SelfAttention(nn.Module):
    """Multi-head attention up to the concatenation of heads; `recompute` as of `attention`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size)
        self.recompute = False

    def forward(self, x: Tensor, mask: Tensor | None, first_only: bool = False) -> Tensor:
        qkv = self.qkv(x)  # [B, S, 3 H]
        dropped = self.dropout if self.training else 0.0
        return attention(qkv, mask, self.heads, dropped, first_only, self.recompute)


class Residual(nn.Module):
    """A linear layer, on an activation or not; its result plus the block's input is normalised."""

    def __init__(self, config: BertConfig, width: int, activation: str | None = None) -> None:
        super().__init__()
        self.dense = Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = activation
        self.dropout = config.hidden_dropout_prob

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        y = self.dense(y, self.activation)  # [B, S, width] to [B, S, H]
        keep_sum = getattr(self.dense, "trains_b_alone", False)  # then x is not kept elsewhere
        return add_and_normalise(
            x, y, self.LayerNorm, self.dropout, self.training, keep_sum=keep_sum
        )


class Attention(nn.Module):
    """The first half of a layer: attention among tokens."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = Residual(config, config.hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None, first_only: bool = False) -> Tensor:
        y = self.self(x, mask, first_only)  # [B, S or 1, H]
        x = x[:, :1].contiguous() if first_only else x
        return self.output(y, x)  # [B, S or 1, H]


class Intermediate(nn.Module):
    """The wide layer, without its activation, which the layer after it computes."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x)  # [B, S, I]


class Layer(nn.Module):
    """Attention, then two linear layers on every token by itself."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = Residual(config, config.intermediate_size, config.hidden_act)

    def forward(self, x: Tensor, mask: Tensor | None, first_only: bool = False) -> Tensor:
        x = self.attention(x, mask, first_only)  # [B, S or 1, H]
        u = self.intermediate(x)  # [B, S or 1, I]
        return self.output(u, x)  # [B, S or 1, H]


class Stack(nn.Module):
    """The stack of all layers. With `gradient_checkpointing` a training step keeps only the input
    of each, and computes the layer again in the backward pass, with the same random numbers."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor, mask: Tensor | None, first_only: bool = False) -> Tensor:
        last = len(self.layer) - 1
        checkpoints = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for index, layer in enumerate(self.layer):
            arguments = x, mask, first_only and index == last
            trains = x.requires_grad or any(p.requires_grad for p in layer.parameters())
            if checkpoints and trains:
                x = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                x = layer(*arguments)  # [B, S, H], in the end S or 1
        return x


class Pooler(nn.Module):
    """One vector for a text: its [CLS], through a linear layer and tanh."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.dense(hidden[:, 0]))  # [B, H]


class BertEncoder(nn.Module):
    """Token ids to hidden states. A pooler is stored here, as in checkpoints, and not run."""

    def __init__(self, config: BertConfig, pooler: bool = True) -> None:
        super().__init__()
        self.config = config
        with torch.device("meta"):
            self.embeddings = Embeddings(config)
            self.embeddings_project = (
                Linear(config.embedding_size, config.hidden_size) if config.embedding_size else None
            )
            self.encoder = Stack(config)
            self.pooler = Pooler(config) if pooler else None

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        first_only: bool = False,
    ) -> Tensor:
        """The last layer's hidden states, [B, S, H]; at padding they mean nothing.

        Args:
            input_ids: token ids [B, S].
            attention_mask: [B, S], 1 or true at real tokens; None if all are real.
            token_type_ids: [B, S], 1 in the second text of a pair; None if there is no pair.
            first_only: return only the first state of each text, [B, 1, H]; the last layer then
                computes no others, except keys and values.
        """
        first_only = first_only and not is_reference()
        x = self.embeddings(input_ids, token_type_ids)  # [B, S, H]
        if self.embeddings_project is not None:
            x = self.embeddings_project(x)
        mask = None if attention_mask is None else prepare_mask(attention_mask, x)
        return self.encoder(x, mask, first_only)  # [B, S, H] or [B, 1, H]
