"""The linear layers of an encoder before and after a cell's training. Imports torch."""

import re
from collections.abc import Iterator, Mapping, MutableMapping
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
from bench.plan.job import Job
from bench.plan.models import Model
from bench.stats.intervals import Floats
from bench.studies.updates import modules
from bench.studies.updates.cells import KeptCell
from bench.studies.updates.modules import KINDS, Module, Position, Spectrum, Update
from bench.worker.weights import load_trained
from minbert.model.checkpoint import load_encoder
from minbert.model.classifier import BertClassifier
from minbert.model.config import BertConfig
from minbert.model.encoder import BertEncoder

_LAYER: Final = re.compile(r"(?:bert\.)?encoder\.layer\.(\d+)\.(.+)")

Known = MutableMapping[tuple[str, Position], Spectrum]
"""Spectra of weights before training, by checkpoint's digest and position: cells share them."""


def measure(cell: KeptCell, base: Model, known: Known) -> Update:
    """The spectra of a cell's updates, and of the weights of its base before training; `known` are
    spectra of earlier calls, to which new ones are added. InputError if the weights can't be read,
    or are not finite."""
    moved: list[Module] = []
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
            "random": modules.random_spectrum(update.shape),
            "before": known[base.digest, position],
        }
        size = float(np.linalg.norm(update.values)) / float(np.linalg.norm(before))
        moved.append(Module(position, spectra, size))
    return Update(cell, tuple(moved), unmoved)


def _spectrum(matrix: Floats, position: Position, path: Path | None) -> Spectrum:
    try:
        return modules.spectrum_of(matrix)
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
