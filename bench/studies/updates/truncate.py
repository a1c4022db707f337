"""Scores of a model whose updates are cut to their k largest directions. Imports torch.

Each linear layer of the encoder gets the weight W + U_k S_k V_kᵀ instead of W + U S Vᵀ: the nearest
one with an update of rank k (Eckart and Young 1936). All else stays as trained: biases, LayerNorm,
embeddings, pooler and head. With k = 0 the linear layers are as before training.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from bench.common.errors import InputError
from bench.examples import tokens
from bench.machine.conditions import Conditions
from bench.plan.models import Model
from bench.results.outcomes import Values
from bench.results.predictions import values_for
from bench.stats.intervals import Floats, spread
from bench.studies.updates.cells import KeptCell
from bench.studies.updates.truncation import Truncated, Truncation
from bench.studies.updates.weights import base_weights, linear_weights, load_model
from minbert.data.tasks import Data
from minbert.model.classifier import BertClassifier
from minbert.training.evaluation import predict

_CONDITIONS: Final = ("device", "machine", "torch_version", "threads")
_TOLERANCE: Final = 1e-6
"""The largest difference between the kept model's score and its cell's, which has seven digits."""


def truncate(
    cell: KeptCell,
    base: Model,
    ranks: Sequence[int],
    examples: Data,
    data: Path | None,
    conditions: Conditions,
    on_rank: Callable[[str], None],
) -> Truncation:
    """Score a fully fine-tuned model on dev, with its updates to the base that it was trained from
    cut to some ranks, lowest first; `on_rank` is called with a description before each. `data` is
    the folder of the cell's examples, unless these are embedded. InputError if weights can't be
    read."""
    settings = cell.row.cell
    # as many threads as the cell had: they decide the order in which sums are rounded
    threads = min(int(cell.row.threads or conditions.threads), conditions.threads)
    torch.set_num_threads(threads)
    model = load_model(cell, base).to(torch.device(conditions.worker_device))
    pieces = tokens.read(settings, base.tokenizer, data) or tokens.make(
        examples, settings, base.tokenizer, data
    )
    _, dev = pieces[""]
    on_rank(f"{cell.label}, as trained")
    trained = _values(model, dev, cell)
    if trained is None:
        raise InputError(f"{cell.weights}: predicts the same number for all of dev")
    layers = _layers(model, base, max(ranks, default=0))
    scores = []
    for rank in ranks:
        on_rank(f"{cell.label}, updates of rank {rank}")
        for weight, before, left, right in layers:
            weight.copy_(torch.from_numpy(before + left[:, :rank] @ right[:rank]))
        values = _values(model, dev, cell)
        if values is None:
            scores.append(Truncated(rank, None))
        else:
            change = spread((values - trained)[None]).interval()
            scores.append(Truncated(rank, spread(values[None]).interval(), change))
    scores.append(Truncated(None, spread(trained[None]).interval()))
    return Truncation(
        cell=cell,
        metric=cell.row.dev_metric or "",
        examples=len(dev),
        scores=tuple(scores),
        problem=_problem(cell, float(trained.mean()), replace(conditions, threads=threads)),
    )


def _values(model: BertClassifier, dev: tokens.TokenisedExamples, cell: KeptCell) -> Values | None:
    """A number for each dev example, [N], whose mean is the score; None where all predictions are
    the same number."""
    settings = cell.row.cell
    logits = predict(
        model,
        [dev.encoded],
        batch_size=settings.batch_size,
        amp=settings.amp,
        device=next(model.parameters()).device,
        tags=None if dev.encoded.words is None else dev.labels,
    )
    try:
        return values_for(cell.row.dev_metric or "", logits, dev.labels)
    except ValueError:
        return None


def _layers(
    model: BertClassifier, base: Model, most: int
) -> list[tuple[Tensor, Floats, Floats, Floats]]:
    """The linear layers: the model's weight [o, i], its value before training, and the largest
    directions of the update, U S [o, k] and Vᵀ [k, i]."""
    before = base_weights(base)
    layers = []
    for position, weight in linear_weights(model.bert).items():
        base_weight = before[position].astype(np.float64)
        update = weight.cpu().numpy().astype(np.float64) - base_weight
        left, values, right = np.linalg.svd(update, full_matrices=False)
        layers.append((weight, base_weight, left[:, :most] * values[:most], right[:most].copy()))
    return layers


def _problem(cell: KeptCell, score: float, conditions: Conditions) -> str | None:
    """A line if the score of the kept model differs from its cell's; else None."""
    own = float(cell.row.dev_score or 0.0)
    if abs(score - own) <= _TOLERANCE:
        return None
    differences = [
        f"{name} {cell.row[name]}, here {here}"
        for name in _CONDITIONS
        if cell.row[name] != (here := getattr(conditions, name))
    ]
    why = f"it ran with {'; '.join(differences)}" if differences else "it ran in these conditions"
    return f"{cell.label}: as kept it scores {score:.7g} on dev, and its cell has {own:.7g} ({why})"
