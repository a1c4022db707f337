"""Predictions of a trained model on a set of examples."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minbert.batches import collate, plan_evaluation
from minbert.encoded import Encoded
from minbert.training import autocast


def predict(
    model: nn.Module,
    encoded: Encoded,
    *,
    batch_size: int,
    amp: str,
    pad_id: int,
    device: torch.device,
    on_batch: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Logits [N, num_outputs] of every example, in the examples' order.

    Batches are made of sentences of like length, so that little padding is computed. `on_batch`
    is told how many examples are done, and of how many.
    """
    labels = np.zeros(len(encoded), dtype=np.int64)

    def logits_of(indices: NDArray[np.int64]) -> Tensor:
        batch = collate(encoded, labels, indices, pad_id, device)
        logits: Tensor = model(batch.input_ids, batch.attention_mask, batch.token_type_ids)
        return logits

    return predict_by(
        model,
        encoded.lengths,
        logits_of,
        batch_size=batch_size,
        amp=amp,
        device=device,
        on_batch=on_batch,
    )


@torch.inference_mode()
def predict_by(
    model: nn.Module,
    lengths: NDArray[np.int64],
    logits_of: Callable[[NDArray[np.int64]], Tensor],
    *,
    batch_size: int,
    amp: str,
    device: torch.device,
    on_batch: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """As `predict`, for examples of these lengths [N].

    Args:
        logits_of: the logits [B, num_outputs] of the examples at some indices, by the model.
    """
    model.eval()
    found: NDArray[np.float32] | None = None
    done = 0
    for indices in plan_evaluation(lengths, batch_size):
        with autocast(amp, device):
            logits = logits_of(indices)
        values = logits.float().cpu().numpy()
        if found is None:
            found = np.empty((len(lengths), values.shape[1]), dtype=np.float32)
        found[indices] = values
        done += len(indices)
        if on_batch is not None:
            on_batch(done, len(lengths))
    return np.empty((0, 0), dtype=np.float32) if found is None else found
