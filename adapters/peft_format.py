"""Saving of adapters in PEFT's format: adapter_config.json, adapter_model.safetensors."""

import json
from pathlib import Path
from typing import Final

from safetensors.torch import save_file
from torch import Tensor, nn

from adapters.injection import name_in_format, parameter_groups, part_names, training_of
from adapters.layer import AdaptedLinear
from adapters.methods import METHODS
from minbert.errors import InputError

CONFIG: Final = "adapter_config.json"
ADAPTER: Final = "adapter_model.safetensors"


def save_adapter(
    model: nn.Module,
    folder: Path,
    base_model: str | None = None,
    *,
    revision: str | None = None,
    task_type: str = "SEQ_CLS",
) -> None:
    """Save a model's adapters, and all else that trains in it, into a folder. If writing is
    interrupted, there is no adapter_config.json, so that the folder can't be mistaken for a
    complete one.

    InputError if the model has no adapters, they differ in rank or scale, or the format does not
    support their mode; OSError or SafetensorError if the folder can't be written.

    Args:
        base_model, revision: name or path of the base model, and its revision on the hub, for the
            reader's information.
        task_type: PEFT's name of what the head is for.
    """
    adapted = [layer for layer in model.modules() if isinstance(layer, AdaptedLinear)]
    if not adapted:
        raise InputError("the model has no adapters to save; inject some first")
    parts = [part for layer in adapted for part in layer.parts if part.rank > 0]
    mode, first = training_of(model).mode, parts[0]
    own = METHODS[mode].peft
    if own is None:
        raise InputError(f"adapters of mode {mode} have no form in PEFT's format")
    if len({(part.rank, part.alpha, part.use_rslora) for part in parts}) > 1:
        raise InputError("adapters are saved with one rank and one scale for all layers")
    modules = sorted(_trained_modules(model))
    stems = tuple(f"{module}." for module in modules)
    tensors = {
        f"{part.name}.{layer.method.parameters[name]}": tensor
        for layer in adapted
        for index, part in enumerate(layer.parts)
        if part.rank > 0
        for name, tensor in layer.part_tensors(index).items()
    }
    tensors |= {name: t for name, t in _base_tensors(model).items() if name.startswith(stems)}
    config = {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(first.alpha) if first.alpha.is_integer() else first.alpha,
        "lora_dropout": getattr(adapted[0], "dropout", 0.0),
        "modules_to_save": modules,
        "peft_type": "LORA",
        "r": first.rank,
        "revision": revision,
        # in full, since a short name such as `dense` would also match the pooler
        "target_modules": [part.name for part in parts],
        "task_type": task_type,
        "use_rslora": first.use_rslora,
        **own,
    }
    copies = {
        f"base_model.model.{name}": tensor.to("cpu", copy=True).contiguous()
        for name, tensor in tensors.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    save_file(copies, folder / ADAPTER, {"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")


def _trained_modules(model: nn.Module) -> set[str]:
    """The format's names of the modules that train besides adapters."""
    groups = parameter_groups(model)
    owners = {name.rpartition(".")[0] for name in groups["base"] | groups["head"]}
    # PEFT saves a head of several layers whole
    return {
        name.partition(".")[0] if part.startswith("classifier.") else name
        for owner in owners
        for part in part_names(owner)
        for name in [name_in_format(model, part)]
    }


def _base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All other tensors of a model by their names in a checkpoint, as views."""
    owners = dict(model.named_modules())
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        owner, _, own = name.rpartition(".")
        module = owners[owner]
        if isinstance(module, AdaptedLinear) and own in module.method.parameters:
            continue
        parts = [f"{name_in_format(model, part)}.{own}" for part in part_names(owner)]
        tensors |= zip(parts, tensor.chunk(len(parts)), strict=True)
    return tensors
