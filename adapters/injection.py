"""Injection of adapters into a model, and the choice of its trainable parameters.

Only the names of a model's modules are used, which are those of BERT checkpoints: `bert.encoder.
layer.{n}.…`, `bert.pooler.…` and `classifier.…`, with the fused layers of `adapters.names`. A
second encoder, `bert_pairs.…`, is treated like the first, and a `comparison.…` like the head.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, cast

import torch
from torch import nn

from adapters.layer import AdaptedLinear, Part
from adapters.low_rank import LowRankLinear
from adapters.methods import BITFIT, METHODS, MODES
from adapters.names import FUSED, LAYER_SETS, adapted_layers, is_layers, trains_base, unmatched_ends
from minbert.errors import InputError
from minbert.registry import load

_HEADS: Final = ("classifier.", "comparison.")
_POOLERS: Final = ("bert.pooler.", "bert_pairs.pooler.")
"""Beginnings of names in the head; poolers belong to it only if they are new."""
_ENCODER_LAYER: Final = re.compile(r"bert(?:_pairs)?\.encoder\.layer\.\d+\.")


@dataclass(frozen=True)
class Training:
    """The choice of trainable parameters: whether the parts of the encoder without an adapter
    train, `base`, and whether poolers are newly initialised, and train as part of the head."""

    mode: str
    base: bool
    new_pooler: bool


def layer_class(mode: str) -> type[AdaptedLinear]:
    """The class of a mode's layers. InputError if that of a plugin can't be used."""
    plugin, path = METHODS.plugin(mode), METHODS[mode].layer or ""
    try:
        layer = load(path)
        if not issubclass(layer, AdaptedLinear):
            raise TypeError("it is no AdaptedLinear")
    except Exception as error:
        if plugin is None:
            raise
        raise InputError(f"{plugin}: {path} of method {mode!r} can't be used: {error}") from error
    return cast(type[AdaptedLinear], layer)


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear, tuple[str, ...]]]:
    """Every plain linear layer with its name and the format's names for its parts."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module, part_names(name)


def part_names(name: str) -> tuple[str, ...]:
    """The format's names for the parts of a module: several if it is fused, else one."""
    for fused, parts in FUSED.items():
        if name.endswith(f".{fused}"):
            return tuple(name.removesuffix(fused) + part for part in parts)
    return (name,)


def name_in_format(model: nn.Module, name: str) -> str:
    """The name of a module in checkpoints of the model's architecture, BERT or another."""
    rename = getattr(model, "format_name", None)
    return name if rename is None else str(rename(name))


def inject(
    model: nn.Module,
    *,
    mode: str,
    layers: str | None,
    rank: int | None,
    alpha: float,
    new_pooler: bool,
    seed: int,
    use_rslora: bool = False,
    lora_dropout: float = 0.0,
    lora_fa: bool = False,
) -> None:
    """Prepare a model for training in a mode, in place: add adapters, and freeze the rest or not.
    The model's function does not change.

    InputError if an argument is out of range, or the model has adapters already or lacks the
    layers; nothing changes then.

    Args:
        model: has the module names of a BERT checkpoint.
        layers: the layer set, or ends of layers' names joined by `+`; None in the modes without
            adapters.
        rank: of every adapter; None in the modes without ranks.
        alpha: numerator of the scale, alpha / rank, or with `use_rslora` alpha / √rank.
        new_pooler: whether the model's pooler, if it has one, was newly initialised.
        seed: of the adapters' random numbers; the global generator is not used.
        lora_dropout: probability of dropout on the input of LoRA's A.
        lora_fa: whether A keeps its first values (LoRA-FA), and attention's softmax is recomputed.
    """
    if mode not in MODES:
        raise InputError(f"no mode is called {mode!r}; choose from {', '.join(MODES)}")
    if mode not in METHODS:
        if layers is not None or rank is not None:
            raise InputError(f"mode {mode!r} has no adapters; leave layers and rank empty")
        _refuse_adapters(model)
        freeze(model, Training(mode, base=mode == "full", new_pooler=new_pooler))
        return
    others = getattr(model, "layer_names", {})
    if layers is None or not is_layers(layers) or unmatched_ends(layers, others):
        raise InputError(
            f"no layer set is called {layers!r}, and no linear layer's name ends so; choose from "
            f"{', '.join(LAYER_SETS)}, or give ends such as query+value"
        )
    if METHODS[mode].has_rank != (rank is not None):
        raise InputError(f"mode {mode!r} {'needs a' if rank is None else 'has no'} rank")
    adapted = adapted_layers(layers, others)
    rank = 1 if rank is None else rank
    parts = {
        part: Part(name=name_in_format(model, part), rank=rank, alpha=alpha, use_rslora=use_rslora)
        for _, _, names in linear_layers(model)
        for part in names
        if (match := _ENCODER_LAYER.match(part)) and part[match.end() :] in adapted
    }
    for name, layer in build_layers(model, mode, parts).items():
        layer.reset_parameters(seed)
        model.set_submodule(name, layer)
    freeze(model, Training(mode, base=trains_base(layers), new_pooler=new_pooler))
    for module in model.modules():
        if isinstance(module, LowRankLinear):
            module.dropout = lora_dropout
            module.lora_A.requires_grad_(not lora_fa)
        elif hasattr(module, "recompute"):  # the attention of minbert.model.encoder
            module.recompute = lora_fa  # type: ignore[assignment]


def build_layers(
    model: nn.Module, mode: str, parts: Mapping[str, Part]
) -> dict[str, AdaptedLinear]:
    """Adapted layers without values that could replace a model's linear layers of the same names,
    plain or fused, whose weights they share; the model does not change. `parts` are by their names
    in PEFT's format. InputError as of `inject`."""
    _refuse_adapters(model)
    chosen = {
        name: (linear, names)
        for name, linear, names in linear_layers(model)
        if not parts.keys().isdisjoint(names)
    }
    in_model = {name for _, names in chosen.values() for name in names}
    if missing := [name for name in parts if name not in in_model]:
        raise InputError(f"the model has no linear layer called {missing[0]} to adapt")
    if not chosen:
        raise InputError("the model has none of the linear layers to adapt; is it a BERT encoder?")
    layers: dict[str, AdaptedLinear] = {}
    for name, (linear, names) in chosen.items():
        width = min(linear.in_features, linear.out_features // len(names))
        for part in filter(None, map(parts.get, names)):
            _check(part, width)
        stack = [parts.get(part, Part(name=part, rank=0, alpha=0.0)) for part in names]
        layers[name] = layer_class(mode)(linear, stack).train(linear.training)
    return layers


def _refuse_adapters(model: nn.Module) -> None:
    if any(isinstance(module, AdaptedLinear) for module in model.modules()):
        raise InputError("the model has adapters already; start again from the base model")


def _check(part: Part, width: int) -> None:
    rank, choose = part.rank, f"choose 1 to {width}"
    if rank < 1:
        raise InputError(f"rank {rank} of {part.name} is below 1; {choose}")
    if rank > width:
        raise InputError(f"rank {rank} is above the width {width} of {part.name}; {choose}")
    if not (math.isfinite(part.alpha) and part.alpha > 0):
        raise InputError(f"alpha {part.alpha:g} of {part.name} is not a positive number")


def freeze(model: nn.Module, training: Training) -> None:
    vars(model)["training_choice"] = training
    for name, parameter in model.named_parameters():
        group = _group(model, name, training)
        parameter.requires_grad_(training.base if group == "base" else group is not None)


@torch.no_grad()
def convert_frozen(model: nn.Module, dtype: torch.dtype, *, adapted: bool = True) -> None:
    """Convert the weight of every frozen linear layer to a type, in place, with adapters or only
    those without. New adapters have to be reset afterwards, as DoRA's magnitude is that of the
    rounded weight. In half precision an adapted weight rounds small updates of its adapter away."""
    kinds = nn.Linear | AdaptedLinear if adapted else nn.Linear
    for module in model.modules():
        if isinstance(module, kinds) and not module.weight.requires_grad:
            module.weight.data = module.weight.data.to(dtype)


def training_of(model: nn.Module) -> Training:
    """The choice of trainable parameters that `inject` has stored; InputError if there is none."""
    training = vars(model).get("training_choice")
    if not isinstance(training, Training):
        raise InputError("nothing says what trains in the model; call inject first")
    return training


def parameter_groups(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """The trainable parameters by name, in the groups that have separate learning rates: `adapter`,
    with the biases of the encoders in mode `bitfit`; `base`, the rest of the encoders, or all of
    them in mode `full`; and `head`, with newly initialised poolers and a comparison. A group may be
    empty. InputError as of `training_of`."""
    training = training_of(model)
    groups: dict[str, dict[str, nn.Parameter]] = {"adapter": {}, "base": {}, "head": {}}
    for name, parameter in model.named_parameters():
        group = _group(model, name, training)
        if parameter.requires_grad and group is not None:
            groups[group][name] = parameter
    return groups


def _group(model: nn.Module, name: str, training: Training) -> str | None:
    """The group of a parameter; None for the weights that an adapter updates, which never train."""
    owner, _, own = name.rpartition(".")
    layer = model.get_submodule(owner)
    if isinstance(layer, AdaptedLinear):
        return "adapter" if own in layer.method.parameters else None
    if name.startswith(_HEADS) or (training.new_pooler and name.startswith(_POOLERS)):
        return "head"
    return "adapter" if training.mode == BITFIT and own == "bias" else "base"


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether AdamW decays a parameter: it decays matrices, among them the stacked factors A and B,
    but not biases, LayerNorm, DoRA's magnitude, and the factors of outputs in IA³ and BOFT, which
    are vectors that PEFT holds as matrices."""
    return parameter.ndim > 1 and not any(part in name for part in (".ia3_l.", ".boft_s."))
