"""Embeddings of texts by an encoder that was not trained for the task. torch is imported on use."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from bench.plan.architectures import model_type_of
from minbert.data.encoded import Encoded
from minbert.model.families import FAMILIES

if TYPE_CHECKING:
    from minbert.model.classifier import Classifier

_BATCH: Final = 64


def embedder(
    checkpoint: Path, pooling: str, device: str
) -> Callable[[Encoded], NDArray[np.float64]]:
    """A function that returns the embeddings [N, H] of texts, computed in fp32.

    With pooling `pooler` they are the pooler's in BERT, with random weights, as in cells, where the
    checkpoint lacks it. In other architectures they are the last hidden state at the first token,
    as all layers between that and the classes are new.
    """
    import torch

    from minbert.training.evaluation import predict

    model = (_bert if model_type_of(checkpoint) in FAMILIES else _other)(checkpoint, pooling)
    model.to(torch.device(device))

    def embed(texts: Encoded) -> NDArray[np.float64]:
        embeddings = predict(
            model, [texts], batch_size=_BATCH, amp="off", pad_id=model.pad_id,
            device=torch.device(device),
        )  # fmt: skip
        return embeddings.astype(np.float64)

    return embed


def _bert(checkpoint: Path, pooling: str) -> "Classifier":
    """A BERT, which returns embeddings as if they were logits."""
    from torch import nn

    from minbert.model.checkpoint import load_encoder
    from minbert.model.classifier import BertClassifier, initialise
    from minbert.model.config import BertConfig

    model = BertClassifier(BertConfig.from_folder(checkpoint), 1, pooling=pooling, dropout=0.0)
    load_encoder(model.bert, checkpoint)
    initialise(model, 0)
    model.classifier = nn.Identity()
    return model


def _other(checkpoint: Path, pooling: str) -> "Classifier":
    """An encoder of another architecture, likewise."""
    from torch import float32, nn
    from transformers import AutoModel

    from bench.engines.classifier import EncoderClassifier
    from minbert.model.classifier import HeadConfig

    encoder = AutoModel.from_pretrained(
        checkpoint, local_files_only=True, trust_remote_code=False, dtype=float32
    )
    pooling = "mean" if pooling == "mean" else "cls"
    return EncoderClassifier(encoder, nn.Identity(), outputs=HeadConfig(1), pooling=pooling)
