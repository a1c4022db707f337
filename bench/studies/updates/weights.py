"""The linear layers of an encoder before and after a cell's training, and its scores with their
updates cut to the k largest directions. Imports torch.

Cut, a linear layer of the encoder gets the weight W + U_k S_k V_kᵀ instead of W + U S Vᵀ: the
nearest one with an update of rank k (Eckart and Young 1936). All else stays as trained: biases,
LayerNorm, embeddings, pooler and head. With k = 0 the linear layers are as before training.
"""

import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.injection import linear_layers
from adapters.layer import AdaptedLinear
from bench.common.errors import InputError
from bench.examples import tokens
from bench.machine.conditions import Conditions
from bench.plan.job import Job
from bench.plan.models import Model
from bench.report import text
from bench.results.outcomes import Values
from bench.results.predictions import values_for
from bench.stats.intervals import Floats, spread
from bench.studies.updates import cells
from bench.studies.updates.cells import KINDS, KeptCell, Position, Truncated, Truncation
from bench.worker.weights import load_trained
from minbert.data.tasks import Data
from minbert.model.checkpoint import load_encoder
from minbert.model.classifier import BertClassifier
from minbert.model.config import BertConfig
from minbert.model.encoder import BertEncoder
from minbert.training.evaluation import predict

_LAYER: Final = re.compile(r"(?:bert\.)?encoder\.layer\.(\d+)\.(.+)")

Known = MutableMapping[tuple[str, Position], cells.Spectrum]
"""Spectra of weights before training, by checkpoint's digest and position: cells share them."""
_CONDITIONS: Final = ("device", "machine", "torch_version", "threads")
_TOLERANCE: Final = 1e-6
"""The largest difference between the kept model's score and its cell's, which has seven digits."""


def measure(cell: KeptCell, base: Model, known: Known) -> cells.Update:
    """The spectra of a cell's updates, and of the weights of its base before training; `known` are
    spectra of earlier calls, to which new ones are added. InputError if the weights can't be read,
    or are not finite."""
    moved: list[cells.Module] = []
    unmoved = 0
    for position, before, change in pairs(cell, base):
        if not change.any():
            unmoved += 1
            continue
        if (base.digest, position) not in known:
            known[base.digest, position] = _spectrum(before, position, base.checkpoint)
        update = _spectrum(change, position, cell.weights)
        spectra = {
            "update": update,
            "random": cells.random_spectrum(update.shape),
            "before": known[base.digest, position],
        }
        size = float(np.linalg.norm(update.values)) / float(np.linalg.norm(before))
        moved.append(cells.Module(position, spectra, size))
    return cells.Update(cell, tuple(moved), unmoved)


def _spectrum(matrix: Floats, position: Position, path: Path | None) -> cells.Spectrum:
    try:
        return cells.spectrum_of(matrix)
    except ValueError as error:
        layer, kind = position
        raise InputError(f"{path}: the {kind} of layer {layer} {error}") from error


def pairs(cell: KeptCell, base: Model) -> Iterator[tuple[Position, Floats, Floats]]:
    """The linear layers of a cell's encoder, layer by layer, unchanged ones included: the weight
    before training, and what training added to it, [o, i]. InputError as `load_model`."""
    trained = load_model(cell, base)
    plain = linear_weights(trained.bert)
    adapted = {
        position_of(part.name): (layer, index)
        for layer in trained.modules()
        if isinstance(layer, AdaptedLinear)
        for index, part in enumerate(layer.parts)
    }
    for position, rows in base_weights(base).items():
        before = rows.astype(np.float64)
        if position in adapted:
            update = adapter_update(*adapted[position])
        else:
            update = plain[position].numpy().astype(np.float64) - before
        yield position, before, update


def base_weights(base: Model) -> Mapping[Position, NDArray[np.float32]]:
    """The linear layers' weights [o, i] of a checkpoint, layer by layer in the order of `KINDS`;
    InputError of `minbert` if it can't be loaded."""
    encoder = BertEncoder(cast(BertConfig, base.config), pooler=False)
    load_encoder(encoder, cast(Path, base.checkpoint))
    return {position: rows.numpy() for position, rows in linear_weights(encoder).items()}


def load_model(cell: KeptCell, base: Model) -> BertClassifier:
    """A cell's trained model with the checkpoint of its base; InputError as `load_trained`."""
    job = replace(Job.read(cell.folder), checkpoint=str(base.checkpoint))
    return cast(BertClassifier, load_trained(job, cell.folder))


def linear_weights(encoder: nn.Module) -> dict[Position, Tensor]:
    """Views of the weights [o, i] of an encoder's plain linear layers, fused ones in parts."""
    return {
        position: rows
        for _, linear, names in linear_layers(encoder)
        for name, rows in zip(names, linear.weight.detach().chunk(len(names)), strict=True)
        if (position := position_of(name)) is not None
    }


def adapter_update(layer: AdaptedLinear, index: int) -> Floats:
    """The update [o, i] that an adapter adds to the frozen weight of a part of its layer. In
    float64 and, for LoRA, from its factors: the difference of merged weights would include their
    rounding. Zero for a part without an adapter."""
    exact = deepcopy(layer).double()
    with torch.no_grad():
        rows = exact.weight_change().chunk(len(layer.parts))[index]
    return np.asarray(rows.numpy())


def position_of(name: str) -> Position | None:
    """The position of a layer by its name in a checkpoint; None outside the encoder layers."""
    match = _LAYER.fullmatch(name)
    return (int(match[1]), KINDS[match[2]]) if match and match[2] in KINDS else None


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
    here = f"as kept it scores {score:.7g} on dev, and its cell has {own:.7g} ({why})"
    return text.plain(f"{cell.label}: {here}")
