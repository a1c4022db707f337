"""Embeddings of texts by an encoder that was not trained for the task. torch is imported on use."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from minbert.data.encoded import Encoded

_BATCH: Final = 64


def embedder(
    checkpoint: Path, pooling: str, device: str
) -> Callable[[Encoded], NDArray[np.float64]]:
    """A function that returns the embeddings [N, H] of texts, computed in fp32.

    Args:
        checkpoint: the encoder's folder. A pooler that it lacks has random weights, as in cells.
        pooling: one of `minbert.model.classifier.POOLINGS`.
    """
    import torch

    from minbert.model.checkpoint import load_encoder
    from minbert.model.classifier import BertClassifier, initialise
    from minbert.model.config import BertConfig
    from minbert.training.evaluation import predict

    config = BertConfig.from_folder(checkpoint)
    model = BertClassifier(config, 1, pooling=pooling, dropout=0.0)
    load_encoder(model.bert, checkpoint)
    initialise(model, 0)
    model.classifier = torch.nn.Identity()
    model.to(torch.device(device))

    def embed(texts: Encoded) -> NDArray[np.float64]:
        embeddings = predict(
            model, [texts], batch_size=_BATCH, amp="off", pad_id=config.pad_token_id,
            device=torch.device(device),
        )  # fmt: skip
        return embeddings.astype(np.float64)

    return embed
