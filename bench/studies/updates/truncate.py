"""Evaluating a model whose updates are cut to their k largest directions. Imports torch.

Each linear layer of the encoder gets W + U_k S_k V_kᵀ for its W + U S Vᵀ, the nearest there is with
an update of rank k (Eckart and Young 1936). All else stays as trained: biases, LayerNorm,
embeddings, pooler and head. With k = 0 the linear layers are those of before training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.common.errors import InputError
from bench.data import tokens
from bench.machine.conditions import Conditions
from bench.plan.models import Model
from bench.results.outcomes import Values
from bench.results.predictions import values_for
from bench.stats.intervals import spread
from bench.studies.updates.cells import Trained
from bench.studies.updates.spectrum import Floats
from bench.studies.updates.truncation import TOLERANCE, Truncated, Truncation
from bench.studies.updates.weights import base_weights, linear_weights, load_trained
from minbert.data.tasks import Data, find_task
from minbert.model.classifier import BertClassifier
from minbert.training.evaluation import predict

_CONDITIONS: Final = ("device", "machine", "torch_version", "threads")


@dataclass(frozen=True, eq=False)
class _Layer:
    """A linear layer: the model's own weight [o, i], that of before training, and of the update its
    directions U S [o, k] and V [k, i], largest first."""

    weight: Tensor
    before: Floats
    left: Floats
    right: Floats

    def cut(self, rank: int) -> None:
        """Give the model's weight an update of a rank."""
        cut = self.before + self.left[:, :rank] @ self.right[:rank]
        self.weight.copy_(torch.from_numpy(cut))


def check_precision(cell: Trained, conditions: Conditions) -> None:
    """Refuse to predict in fp16 without a GPU, before anything is read.

    Raises:
        InputError: naming the cell.
    """
    if cell.cell.amp == "fp16" and conditions.device == "cpu":
        raise InputError(f"--truncate: {cell.name} predicts in fp16, which needs a GPU")


def truncate(
    cell: Trained,
    base: Model,
    ranks: Sequence[int],
    examples: Data,
    data: Path | None,
    conditions: Conditions,
    on_rank: Callable[[str], None],
) -> Truncation:
    """Score a model that trained whole on dev, with its updates cut to some ranks.

    Args:
        base: the checkpoint that it was trained from.
        ranks: lowest first.
        examples: the cell's, which `bench.results.origins.examples_of` finds.
        data: the folder that they are from; none for an embedded task.
        conditions: where to predict.
        on_rank: is told of each that begins.

    Raises:
        InputError: if the weights can't be read, or fp16 is asked of a CPU.
    """
    of = cell.cell
    check_precision(cell, conditions)
    # as many threads as the cell had: they decide the order in which sums are rounded
    threads = min(int(cell.row["threads"] or conditions.threads), conditions.threads)
    torch.set_num_threads(threads)
    model = load_trained(cell, base).to(torch.device(conditions.worker_device))
    dev = (
        tokens.read(of, base.tokenizer, data) or tokens.make(examples, of, base.tokenizer, data)
    )[1]

    def values() -> Values | None:
        return _values(model, dev, cell)

    on_rank(f"{cell.name}, as trained")
    whole = values()
    if whole is None:
        raise InputError(f"{cell.weights}: predicts the same number for all of dev")
    layers = _layers(model, base, max(ranks, default=0))
    scores = []
    for rank in ranks:
        on_rank(f"{cell.name}, updates of rank {rank}")
        with torch.no_grad():
            for layer in layers:
                layer.cut(rank)
        found = values()
        if found is None:
            scores.append(Truncated(rank, None))
            continue
        change = spread((found - whole)[None]).interval()
        scores.append(Truncated(rank, spread(found[None]).interval(), change))
    scores.append(Truncated(None, spread(whole[None]).interval()))
    return Truncation(
        cell=cell,
        metric=find_task(of.task).metric,
        examples=len(dev),
        scores=tuple(scores),
        problem=_problem(cell, float(whole.mean()), replace(conditions, threads=threads)),
    )


def _values(model: BertClassifier, dev: tokens.TokenisedExamples, cell: Trained) -> Values | None:
    """A number for each dev example, [N], with the score as their mean; None of constants."""
    of = cell.cell
    logits: NDArray[np.float32] = predict(
        model,
        [dev.encoded],
        batch_size=of.batch_size,
        amp=of.amp,
        pad_id=model.bert.config.pad_token_id,
        device=next(model.parameters()).device,
    )
    try:
        return values_for(find_task(of.task).metric, logits, dev.labels)
    except ValueError:
        return None


def _layers(model: BertClassifier, base: Model, most: int) -> list[_Layer]:
    """The linear layers of a model's encoder, with as many directions of their updates."""
    before = base_weights(base)
    found = []
    for place, weight in linear_weights(model.bert).items():
        first = before[place].astype(np.float64)
        left, values, right = np.linalg.svd(
            weight.cpu().numpy().astype(np.float64) - first, full_matrices=False
        )
        found.append(_Layer(weight, first, left[:, :most] * values[:most], right[:most].copy()))
    return found


def _problem(cell: Trained, score: float, conditions: Conditions) -> str | None:
    """How the score of the model as it was kept is not that of its cell."""
    own = cell.row["dev_score"]
    if isinstance(own, int | float) and abs(score - own) <= TOLERANCE:
        return None
    there = {name: cell.row[name] for name in _CONDITIONS}
    other = [
        f"{name} {there[name]}, here {here}"
        for name in _CONDITIONS
        if there[name] != (here := getattr(conditions, name))
    ]
    why = f"it ran with {'; '.join(other)}" if other else "it ran on this machine, with this torch"
    told = "no score" if own is None else f"{own:.7g}"
    return f"{cell.name}: as kept it scores {score:.7g} on dev, and its cell has {told} ({why})"
