"""Predictions of a trained model on a set of examples."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from minbert.batches import collate, plan_evaluation
from minbert.encoded import Encoded
from minbert.training import autocast


@torch.inference_mode()
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
    model.eval()
    labels = np.zeros(len(encoded), dtype=np.int64)
    found: NDArray[np.float32] | None = None
    done = 0
    for indices in plan_evaluation(encoded.lengths, batch_size):
        batch = collate(encoded, labels, indices, pad_id, device)
        with autocast(amp, device):
            logits = model(batch.input_ids, batch.attention_mask, batch.token_type_ids)
        values = logits.float().cpu().numpy()
        if found is None:
            found = np.empty((len(encoded), values.shape[1]), dtype=np.float32)
        found[indices] = values
        done += len(indices)
        if on_batch is not None:
            on_batch(done, len(encoded))
    return np.empty((0, 0), dtype=np.float32) if found is None else found
