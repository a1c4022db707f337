"""Embeddings of texts, or of their words, by an encoder that was not trained for the task."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.plan.architectures import model_type_of
from minbert.data.encoded import Encoded
from minbert.model.families import FAMILIES

if TYPE_CHECKING:
    from minbert.model.classifier import Classifier

_BATCH: Final = 64


def embedder(
    checkpoint: Path, pooling: str, device: str, *, by_word: bool = False
) -> Callable[..., NDArray[Any]]:
    """A function that returns the embeddings [N, H] of texts, computed in fp32; of texts with tags
    the last hidden state at the first token of each word [M, H].

    With pooling `pooler` they are the pooler's in BERT, with random weights, as in cells, where the
    checkpoint lacks it. In other architectures they are the last hidden state at the first token,
    as all layers between that and the classes are new.
    """
    import torch

    from minbert.training.evaluation import predict

    make = _bert if model_type_of(checkpoint) in FAMILIES else _other
    model = make(checkpoint, pooling, by_word)
    model.to(torch.device(device))

    def embed(texts: Encoded, tags: NDArray[Any] | None = None) -> NDArray[Any]:
        embeddings = predict(
            model, [texts], batch_size=_BATCH, amp="off", device=torch.device(device), tags=tags
        )
        return embeddings if by_word else embeddings.astype(np.float64)

    return embed


def _bert(checkpoint: Path, pooling: str, by_word: bool) -> "Classifier":
    """A BERT, which returns embeddings as if they were logits."""
    from torch import nn

    from minbert.model.checkpoint import load_encoder
    from minbert.model.classifier import BertClassifier, HeadConfig, initialise
    from minbert.model.config import BertConfig

    config, heads = BertConfig.from_folder(checkpoint), {"": HeadConfig(1, by_token=by_word)}
    model = BertClassifier(config, heads, pooling=pooling, dropout=0.0)
    load_encoder(model.bert, checkpoint)
    initialise(model, 0)
    model.classifier = nn.Identity()
    return model


def _other(checkpoint: Path, pooling: str, by_word: bool) -> "Classifier":
    """An encoder of another architecture, likewise."""
    from torch import float32, nn
    from transformers import AutoModel

    from bench.engines.classifier import EncoderClassifier
    from minbert.model.classifier import HeadConfig

    class Hidden(nn.Module):
        reads_tokens = True

        def forward(self, hidden: Any, _mask: Any) -> Any:
            return hidden

    encoder = AutoModel.from_pretrained(
        checkpoint, local_files_only=True, trust_remote_code=False, dtype=float32
    )
    pooling = "mean" if pooling == "mean" else "cls"
    head = Hidden() if by_word else nn.Identity()
    return EncoderClassifier(encoder, head, outputs=HeadConfig(1), pooling=pooling)
