"""The linear layers of an encoder before and after a cell's training. Imports torch."""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from adapters.injection import linear_layers
from adapters.layer import AdaptedLinear
from adapters.peft_format import ADAPTER, BASE, load_adapter
from bench.common.errors import InputError
from bench.plan.models import Model
from bench.studies.updates.cells import Trained
from bench.studies.updates.kinds import KINDS, Place
from bench.studies.updates.spectrum import Floats
from minbert.data.tasks import find_task
from minbert.files import is_file, weights_file
from minbert.model.checkpoint import load_classifier, load_encoder
from minbert.model.classifier import BertClassifier, initialise
from minbert.model.encoder import BertEncoder

_LAYER: Final = re.compile(r"(?:bert\.)?encoder\.layer\.(\d+)\.(.+)")
_EXACT: Final = (torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Pair:
    """A linear layer's weight before training and what training added to it, both [o, i]."""

    place: Place
    before: Floats
    update: Floats


def pairs(cell: Trained, base: Model) -> Iterator[Pair]:
    """The linear layers of a cell's encoder, layer by layer; those that did not train too.

    Args:
        base: the checkpoint that it was trained from.

    Raises:
        InputError: as `load_trained`.
    """
    before = base_weights(base)
    trained = load_trained(cell, base)
    plain = {place: rows.numpy() for place, rows in linear_weights(trained.bert).items()}
    adapted = {
        place: (layer, index)
        for layer in trained.modules()
        if isinstance(layer, AdaptedLinear)
        for index, part in enumerate(layer.parts)
        if (place := place_of(part.name)) is not None
    }
    for place in before:
        first = before[place].astype(np.float64)
        if place in adapted:
            yield Pair(place, first, adapter_update(*adapted[place]))
        else:
            yield Pair(place, first, plain[place].astype(np.float64) - first)


def base_weights(base: Model) -> Mapping[Place, NDArray[np.float32]]:
    """The linear layers' weights [o, i] of a checkpoint, layer by layer in the order of `KINDS`.

    Raises:
        InputError: of `minbert`, if it can't be loaded.
    """
    encoder = BertEncoder(base.config, pooler=False)
    load_encoder(encoder, _folder(base))
    return {place: rows.numpy() for place, rows in linear_weights(encoder).items()}


def load_trained(cell: Trained, base: Model) -> BertClassifier:
    """The model that a cell left, ready to predict; with adapters where it has them.

    Args:
        base: the checkpoint that it was trained from.

    Raises:
        InputError: here, of `minbert` or of `adapters`, if a file is missing, broken, of another
            model, or holds numbers of 16 bits, whose differences are differences of rounded ones.
    """
    of = cell.cell
    outputs = find_task(of.task).num_outputs
    model = BertClassifier(
        base.config, outputs, pooling=of.pooling, dropout=of.dropout, head=of.head
    )
    if cell.whole:
        load_classifier(model, cell.weights)
        _check_exact(weights_file(cell.weights))
    else:
        load_encoder(model.bert, _folder(base))
        initialise(model, of.seed)  # the head, which the adapter's file then replaces
        load_adapter(model, cell.weights)
        for path in (cell.weights / name for name in (ADAPTER, BASE)):
            if is_file(path):
                _check_exact(path)
    return model.eval()


def linear_weights(encoder: nn.Module) -> dict[Place, Tensor]:
    """The weights [o, i] of an encoder's plain linear layers, as views; fused ones apart."""
    found: dict[Place, Tensor] = {}
    for _, linear, names in linear_layers(encoder):
        for name, rows in zip(names, linear.weight.detach().chunk(len(names)), strict=True):
            place = place_of(name)
            if place is not None:
                found[place] = rows
    return found


def adapter_update(layer: AdaptedLinear, index: int) -> Floats:
    """What an adapter adds to the frozen weight W [o, i] of a part of its layer, [o, i].

    In fp64, and of LoRA from its factors: the difference of merged weights would hold their
    rounding. Zero for a part without an adapter.
    """
    exact = deepcopy(layer).double()
    with torch.no_grad():
        rows = exact.weight_change().chunk(len(layer.parts))[index]
    change: Floats = rows.numpy()
    return change


def place_of(name: str) -> Place | None:
    """Where a linear layer of that name in the format is; None for one outside the layers."""
    match = _LAYER.fullmatch(name)
    return Place(int(match[1]), KINDS[match[2]]) if match and match[2] in KINDS else None


def _folder(base: Model) -> Path:
    if base.checkpoint is None:
        raise ValueError(f"{base.name} has no weights")
    return base.checkpoint


def _check_exact(path: Path) -> None:
    """Refuse a file, already read without complaint, of numbers of 16 bits.

    Raises:
        InputError: naming the tensor.
    """
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 (it is no mapping)
            dtype = file.get_tensor(key).dtype
            if dtype not in _EXACT:
                told = str(dtype).removeprefix("torch.")
                raise InputError(
                    f"{path}: holds {key} in {told}, and an update of rounded weights is mostly "
                    "rounding; keep them in fp32, as --save-weights does"
                )
