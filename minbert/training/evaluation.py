"""Predictions of a trained model on a set of examples."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minbert.data.batches import collate, plan_evaluation
from minbert.data.encoded import Encoded
from minbert.training.trainer import autocast


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
    plan = plan_evaluation(lengths, batch_size)
    on_gpu = device.type == "cuda"
    kept: Tensor | None = None  # in the plan's order; a GPU copies to it and is not waited for
    done = 0
    for indices in plan:
        with autocast(amp, device):
            logits = logits_of(indices)
        if kept is None:
            kept = torch.empty((len(lengths), logits.shape[1]), pin_memory=on_gpu)
        kept[done : done + len(indices)].copy_(logits.float(), non_blocking=on_gpu)
        done += len(indices)
        if on_batch is not None:
            on_batch(done, len(lengths))
    if kept is None:
        return np.empty((0, 0), dtype=np.float32)
    if on_gpu:
        torch.cuda.synchronize(device)
    found: NDArray[np.float32] = np.empty(kept.shape, dtype=np.float32)
    found[np.concatenate(plan)] = kept.numpy()
    return found
