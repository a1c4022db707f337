"""Putting adapters into a model, and saying what trains.

The model is known by the names of its modules alone, those of BERT checkpoints: `bert.encoder.
layer.{n}.…`, `bert.pooler.…` and `classifier.…`, with fused layers as `adapters.names` has them.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from torch import nn

from adapters.dora import DoraLinear
from adapters.errors import InputError
from adapters.layer import AdaptedLinear, Part, replace
from adapters.lora import LoraLinear
from adapters.names import ADAPTER_MODES, FUSED, LAYER_SETS, MODES, adapted_layers, trains_base

LAYER_OF_MODE: Final[Mapping[str, type[AdaptedLinear]]] = {"lora": LoraLinear, "dora": DoraLinear}

_HEAD: Final = "classifier."
_POOLER: Final = "bert.pooler."
_ENCODER_LAYER: Final = re.compile(r"bert\.encoder\.layer\.\d+\.")


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear, tuple[str, ...]]]:
    """Every plain linear layer: its name, itself, and the format's names for its parts.

    A layer that is not fused has one part, of its own name.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module, part_names(name)


def part_names(name: str) -> tuple[str, ...]:
    """The format's names for the parts of a module: several if it is fused, else its own."""
    for fused, parts in FUSED.items():
        if name.endswith(f".{fused}"):
            return tuple(name.removesuffix(fused) + part for part in parts)
    return (name,)


def inject(
    model: nn.Module,
    *,
    mode: str,
    layers: str,
    rank: int,
    alpha: float,
    seed: int,
    rslora: bool = False,
) -> None:
    """Put adapters on a layer set of a model, in place. The model's function does not change.

    Args:
        model: has the module names of a BERT checkpoint.
        mode: `lora` or `dora`.
        layers: the layer set.
        rank: of every adapter.
        alpha: numerator of the scale, alpha / rank.
        seed: of the factors A; nothing else is random, and the global generator is left alone.
        rslora: divide alpha by √rank instead.

    Raises:
        InputError: if an argument is out of range, or the model has adapters already or lacks the
            layers. The model is then unchanged.
    """
    if mode not in ADAPTER_MODES:
        raise InputError(f"mode {mode!r} has no adapters; choose from {', '.join(ADAPTER_MODES)}")
    if layers not in LAYER_SETS:
        raise InputError(f"no layer set is called {layers!r}; choose from {', '.join(LAYER_SETS)}")
    wanted = adapted_layers(layers)
    parts = {
        part: Part(name=part, rank=rank, alpha=alpha, rslora=rslora)
        for _, _, names in linear_layers(model)
        for part in names
        if (match := _ENCODER_LAYER.match(part)) and part[match.end() :] in wanted
    }
    for layer in inject_parts(model, mode, parts):
        layer.draw(seed)


def inject_parts(model: nn.Module, mode: str, parts: Mapping[str, Part]) -> Sequence[AdaptedLinear]:
    """Put adapters, all zero, on the given parts of a model's linear layers, in place.

    Args:
        model: has plain linear layers of the parts' names, or fused ones that hold them.
        mode: `lora` or `dora`.
        parts: by their names in PEFT's format.

    Returns:
        The new layers, in the model's order.

    Raises:
        InputError: as `inject`.
    """
    if any(isinstance(module, AdaptedLinear) for module in model.modules()):
        raise InputError("the model has adapters already; start again from the base model")
    chosen: list[tuple[str, nn.Linear, list[Part]]] = []
    for name, linear, names in linear_layers(model):
        if not any(part in parts for part in names):
            continue
        absent = [Part(name=part, rank=0, alpha=0.0) for part in names]
        stack = [parts.get(part, without) for part, without in zip(names, absent, strict=True)]
        for part in stack:
            if part.name in parts:
                _check(part, linear.in_features, linear.out_features // len(stack))
        chosen.append((name, linear, stack))
    found = {part.name for _, _, stack in chosen for part in stack}
    if missing := [name for name in parts if name not in found]:
        raise InputError(f"the model has no linear layer called {missing[0]} to adapt")
    if not chosen:
        raise InputError("the model has none of the linear layers to adapt; is it a BERT encoder?")
    new: list[AdaptedLinear] = []
    for name, linear, stack in chosen:
        layer = LAYER_OF_MODE[mode](linear, stack)
        layer.train(linear.training)
        replace(model, name, layer)
        new.append(layer)
    return new


def _check(part: Part, width_in: int, width_out: int) -> None:
    """Raise InputError if a part's rank or alpha is out of range."""
    width = min(width_in, width_out)
    if part.rank < 1:
        raise InputError(f"rank {part.rank} of {part.name} is below 1; choose 1 to {width}")
    if part.rank > width:
        raise InputError(
            f"rank {part.rank} is above the width {width} of {part.name}; choose 1 to {width}"
        )
    if not (math.isfinite(part.alpha) and part.alpha > 0):
        raise InputError(f"alpha {part.alpha:g} of {part.name} is not a positive number")


def choose_trainable(
    model: nn.Module, *, mode: str, layers: str | None = None, new_pooler: bool
) -> dict[str, list[str]]:
    """Freeze what does not train, in place, and name what does.

    Weight and bias of an adapted layer are always frozen. The head always trains, and so does a
    pooler that did not come with the checkpoint. One that did trains as the rest of the encoder.

    Args:
        model: after `inject`, in the adapter modes.
        mode: one of the modes.
        layers: the layer set; None in `full` and `head`.
        new_pooler: whether the model's pooler, if any, was newly initialised.

    Returns:
        Names of the parameters that train, in the model's order, by the column that has their
        rate: `learning_rate` (adapters, or everything in `full`), `learning_rate_base` (the rest
        of the encoder, in sets without `-only`) and `learning_rate_head`. A group may be empty.

    Raises:
        InputError: if the mode or layer set is unknown, or the model's adapters are not the mode's.
    """
    if mode not in MODES:
        raise InputError(f"no mode is called {mode!r}; choose from {', '.join(MODES)}")
    if mode in ADAPTER_MODES and layers not in LAYER_SETS:
        raise InputError(f"no layer set is called {layers!r}; choose from {', '.join(LAYER_SETS)}")
    adapted = {name: m for name, m in model.named_modules() if isinstance(m, AdaptedLinear)}
    expected = LAYER_OF_MODE.get(mode)
    if bool(adapted) != (expected is not None) or any(
        type(layer) is not expected for layer in adapted.values()
    ):
        raise InputError(f"the adapters in the model are not those of mode {mode!r}")
    base_trains = mode in ADAPTER_MODES and layers is not None and trains_base(layers)
    groups: dict[str, list[str]] = {
        "learning_rate": [],
        "learning_rate_base": [],
        "learning_rate_head": [],
    }
    for name, parameter in model.named_parameters():
        owner, _, own = name.rpartition(".")
        group = None
        if mode == "full" or (owner in adapted and own in adapted[owner].adapter_names):
            group = "learning_rate"
        elif name.startswith(_HEAD) or (new_pooler and name.startswith(_POOLER)):
            group = "learning_rate_head"
        elif base_trains and owner not in adapted:
            group = "learning_rate_base"
        parameter.requires_grad_(group is not None)
        if group is not None:
            groups[group].append(name)
    return groups


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether AdamW decays a parameter: matrices, the stacked factors A and B among them, yes;
    biases, LayerNorm and DoRA's magnitude, no."""
    return parameter.ndim > 1 and not name.endswith("magnitude")
