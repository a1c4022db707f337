"""The adapters of engine transformers: those of PEFT, on the layers that a cell names."""

import json
import re
from contextlib import nullcontext
from itertools import chain
from typing import Any, Final

import torch
from torch import nn

from adapters.low_rank import draw_factor
from adapters.methods import LOW_RANK, PEFT
from bench.common.errors import InputError
from bench.engines.classifier import (
    ADAPTER,
    FIRST_A,
    FIRST_B,
    EncoderClassifier,
    listed,
    on_meta,
    reason,
    seeded,
)
from bench.plan.adapter_configs import UNSUITED_INITIALISATIONS, check_adapter_config
from bench.plan.cell import DEFAULT, ON
from bench.plan.job import Job
from bench.plan.models import check_rank

_RESIDUAL: Final = ("pissa", "olora")
"""Beginnings of the initialisations that take the first update out of the base weights."""


def add_adapters(model: EncoderClassifier, job: Job) -> None:
    """Add a cell's adapters to a model, in place, and note what they are in `model.names`.
    InputError if PEFT refuses them, or they adapt the head or nothing."""
    import peft

    cell, before = job.cell, _tensor_names(model)
    config = peft_config(model, job)
    is_meta = on_meta(model)
    try:
        with seeded(cell.seed), torch.device("meta") if is_meta else nullcontext():
            adapted = peft.get_peft_model(model.model_of_library, config, low_cpu_mem_usage=is_meta)
    except Exception as error:  # PEFT raises many kinds for what a configuration can't express
        if re.search("(no modules were targeted|target modules .* not found)", str(error), re.I):
            raise InputError(
                f"adapter_config: target_modules match no layer of {cell.model}, whose linear "
                f"layers are {listed(model.blocks.layers)}"
            ) from error
        given = f"adapter_config ({config.peft_type.value})"
        what = given if cell.mode == PEFT else f"mode {cell.mode}"
        raise InputError(f"{what}: PEFT refuses it: {reason(error)}") from error
    vars(model)["peft_model"] = adapted  # for saving; the layers are in the model
    if model.own_head:  # whose children PEFT may have replaced
        for name, child in vars(model)["model_of_library"].named_children():
            model.add_module(name, child)
    if taken := sorted(model.names["head"] - _tensor_names(model)):
        raise InputError(
            f"adapter_config: it adapts {taken[0].rpartition('.')[0]}, which is of the head "
            "and trains whole; add it to exclude_modules"
        )
    if str(getattr(config, "init_lora_weights", "")).startswith(_RESIDUAL):
        _keep_first_factors(model)
    new = _tensor_names(model) - before
    model.names["added"] = {name for name in new if ".base_layer." not in name}
    model.names["adapter"] = {
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.numel() and name not in model.names["head"]
        if cell.lora_fa != ON or ".lora_A." not in name
    }
    if not model.names["adapter"]:
        raise InputError(f"mode {cell.mode}: the configuration adds nothing that trains")
    if cell.mode in LOW_RANK and cell.init_lora_weights == DEFAULT and not is_meta:
        for name, parameter in model.named_parameters():
            owner, is_a, _ = name.partition(".lora_A.")
            if is_a:
                draw_factor(parameter, cell.seed, owner)


def _tensor_names(model: nn.Module) -> set[str]:
    return {name for name, _ in chain(model.named_parameters(), model.named_buffers())}


def _keep_first_factors(model: nn.Module) -> None:
    """Keep the factors whose product was taken out of the base weights: they come from a
    decomposition, which another machine rounds differently."""
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "lora_A") and hasattr(layer, "get_base_layer"):
            for name, factor in ((FIRST_A, layer.lora_A), (FIRST_B, layer.lora_B)):
                layer.register_buffer(name, factor[ADAPTER].weight.detach().clone())


def peft_config(model: EncoderClassifier, job: Job) -> Any:
    import peft

    cell = job.cell
    if cell.mode == PEFT:
        return _given_config(model, json.loads(job.adapter_config or "{}"))
    targets = model.blocks.adapted(str(cell.layers), cell.model)
    for name in targets if cell.mode in LOW_RANK else ():
        layer: Any = model.get_submodule(name)
        check_rank(cell, name, min(layer.in_features, layer.out_features))
    if not model.own_head:  # PEFT sees the encoder alone
        targets = [name.removeprefix(f"{model.prefix}.") for name in targets]
    if cell.mode in LOW_RANK:
        default = cell.init_lora_weights == DEFAULT
        return peft.LoraConfig(
            r=cell.rank,
            lora_alpha=1.0 if cell.alpha is None else cell.alpha,  # without one it is counted
            lora_dropout=cell.lora_dropout,
            target_modules=targets,
            use_rslora=cell.use_rslora == ON,
            use_dora=cell.mode == "dora",
            init_lora_weights=True if default else cell.init_lora_weights,
        )
    if cell.mode == "vera":
        return peft.VeraConfig(r=cell.rank, target_modules=targets, projection_prng_key=cell.seed)
    last = model.blocks.layers.get(model.blocks.last, [])
    inputs = [name for name in targets if name in last or f"{model.prefix}.{name}" in last]
    return peft.IA3Config(target_modules=targets, feedforward_modules=inputs)


def _given_config(model: EncoderClassifier, values: dict[str, Any]) -> Any:
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    check_adapter_config(values, "adapter_config")
    name = values["peft_type"]
    kinds = {str(kind.value): kind for kind in peft.PeftType}
    kind = PEFT_TYPE_TO_CONFIG_MAPPING.get(kinds.get(name))
    if kind is None:
        raise InputError(f"adapter_config: PEFT {peft.__version__} has no peft_type {name}")
    given = re.sub("_(niter|init).*", "", str(values.get("init_lora_weights")))
    if why := UNSUITED_INITIALISATIONS.get(given):
        raise InputError(f"adapter_config: {given} {why}; take another method")
    unknown = [key for key in values if key not in kind.__dataclass_fields__]
    if unknown:
        raise InputError(
            f"adapter_config: {name} of PEFT {peft.__version__} has no {', '.join(unknown)}; leave "
            "it out"
        )
    try:
        config = kind.from_peft_type(**{**values, "inference_mode": False, "task_type": None})
    except Exception as error:  # of many kinds
        raise InputError(f"adapter_config ({name}): PEFT refuses it: {reason(error)}") from error
    heads = {name for name, _ in model.named_children()} - {model.prefix} | {"score"}
    if others := sorted(set(getattr(config, "modules_to_save", None) or ()) - heads):
        raise InputError(
            f"adapter_config: modules_to_save has {others[0]}, which is not of the head; besides "
            "adapters the head alone trains, always: leave it out"
        )
    config.modules_to_save = None
    if getattr(config, "exclude_modules", "") is None:  # as PEFT does for a head it knows
        config.exclude_modules = sorted({n.rpartition(".")[0] for n in model.names["head"]})
    return config
