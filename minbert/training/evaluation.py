"""Predictions of a trained model on a set of examples."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minbert.data.batches import collate, longest_of, plan_evaluation
from minbert.data.encoded import Encoded
from minbert.training.trainer import autocast, logits_of


@torch.inference_mode()
def predict(
    model: nn.Module,
    texts: Sequence[Encoded],
    *,
    batch_size: int,
    amp: str,
    pad_id: int,
    device: torch.device,
    part: str = "",
    on_batch: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Logits [N, C] of every example, in the examples' order, in batches of texts of similar
    length.

    Args:
        texts: token ids of the examples' one text, or of their first and their second texts.
        on_batch: called with the number of examples done, and their total.
    """
    model.eval()
    lengths = longest_of(texts)
    labels = np.zeros(len(lengths), dtype=np.int64)
    plan = plan_evaluation(lengths, batch_size)
    on_gpu = device.type == "cuda"
    kept: Tensor | None = None  # in the plan's order; copies from a GPU are asynchronous
    done = 0
    for indices in plan:
        with autocast(amp, device):
            logits = logits_of(model, collate(texts, labels, indices, pad_id, device, part=part))
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
    in_order: NDArray[np.float32] = np.empty(kept.shape, dtype=np.float32)
    in_order[np.concatenate(plan)] = kept.numpy()
    return in_order
