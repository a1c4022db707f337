"""Predictions of a trained model on a set of examples."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minbert.data.batches import collate, longest_of, plan_evaluation
from minbert.data.encoded import Encoded
from minbert.model.classifier import Classifier
from minbert.training.trainer import autocast, logits_of


@torch.inference_mode()
def predict(
    model: Classifier,
    texts: Sequence[Encoded],
    *,
    batch_size: int,
    amp: str,
    device: torch.device,
    part: str = "",
    tags: NDArray[Any] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Logits [N, C] of every example, in the examples' order, in batches of texts of similar
    length; of texts read word by word logits [M, C] of the words, 0 where a word has no tokens. The
    model is afterwards in the mode that it was in.

    Args:
        texts: token ids of the examples' one text, or of their first and their second texts.
        tags: [N, W], from 0 on where there are words, if texts are read word by word.
        on_batch: called with the number of examples done, and their total.
    """
    is_training = model.training
    model.eval()
    lengths = longest_of(texts)
    labels: NDArray[np.int64] = np.zeros(len(lengths), dtype=np.int64)
    if tags is not None:  # the place of each word among all
        labels = np.cumsum(tags >= 0).reshape(tags.shape) - 1
    plan = plan_evaluation(lengths, batch_size)
    on_gpu = device.type == "cuda"
    kept: Tensor | None = None  # in the plan's order, words in theirs; GPU copies are asynchronous
    done = 0
    for indices in plan:
        with autocast(amp, device):
            batch = collate(texts, labels, indices, model.pad_id, device, part=part)
            logits = logits_of(model, batch)
        if kept is None:
            rows = len(lengths) if tags is None else int(np.count_nonzero(tags >= 0))
            kept = torch.zeros((rows, logits.shape[-1]), pin_memory=on_gpu)
        if tags is None:
            kept[done : done + len(indices)].copy_(logits.float(), non_blocking=on_gpu)
        else:
            is_first = (places := batch.labels.cpu()) >= 0
            kept[places[is_first]] = logits.float().cpu()[is_first]
        done += len(indices)
        if on_batch is not None:
            on_batch(done, len(lengths))
    model.train(is_training)
    if kept is None:
        return np.empty((0, 0), dtype=np.float32)
    if on_gpu:
        torch.cuda.synchronize(device)
    if tags is not None:
        return kept.numpy()
    in_order: NDArray[np.float32] = np.empty(kept.shape, dtype=np.float32)
    in_order[np.concatenate(plan)] = kept.numpy()
    return in_order
