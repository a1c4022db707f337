"""Saving of adapters in PEFT's format: adapter_config.json, adapter_model.safetensors."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save_file
from torch import Tensor, nn

from adapters.injection import parameter_groups, part_names, training_of
from adapters.layer import AdaptedLinear, Part
from adapters.methods import METHODS
from minbert.errors import InputError

CONFIG: Final = "adapter_config.json"
ADAPTER: Final = "adapter_model.safetensors"

_PREFIX: Final = "base_model.model."


def save_adapter(
    model: nn.Module,
    folder: Path,
    base_model: str | None = None,
    *,
    whole: Iterable[str] | None = None,
    encoder_only: bool = False,
    revision: str | None = None,
) -> None:
    """Save a model's adapters, and whole modules beside them, into a folder.

    An adapter that the folder holds is replaced. If writing is interrupted, there is no
    adapter_config.json, so that the folder can't be mistaken for a complete one.

    Args:
        model: with adapters.
        folder: created if missing.
        base_model: name or path of the base model, for the reader's information.
        whole: names of modules that are saved whole; None: all that train besides adapters.
        encoder_only: whether the adapters are for the encoder by itself, without a head.
        revision: of the base model on the hub.

    Raises:
        InputError: if the model has no adapters.
        OSError, SafetensorError: if the folder can't be written.
    """
    adapted = [layer for layer in model.modules() if isinstance(layer, AdaptedLinear)]
    if not adapted:
        raise InputError("the model has no adapters to save; inject some first")
    modules = sorted(_trained_modules(model) if whole is None else whole)
    inside = "bert." if encoder_only else ""
    config = build_config(
        mode=training_of(model).mode,
        parts=[part for layer in adapted for part in layer.parts if part.rank > 0],
        modules_to_save=modules,
        base_model=base_model,
    ) | {"revision": revision}
    tensors = _adapter_tensors(adapted) | _inside(_base_tensors(model), modules)
    if encoder_only:
        config["task_type"] = "FEATURE_EXTRACTION"
        config["target_modules"] = [name.removeprefix(inside) for name in config["target_modules"]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    _write_tensors(
        folder / ADAPTER,
        {key.replace(f"{_PREFIX}{inside}", _PREFIX, 1): value for key, value in tensors.items()},
    )
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")


def _trained_modules(model: nn.Module) -> set[str]:
    """The format's names of the modules that train besides adapters."""
    groups = parameter_groups(model)
    return {
        part
        for group in ("base", "head")
        for name in groups[group]
        for part in part_names(name.rpartition(".")[0])
    }


def build_config(
    *, mode: str, parts: Sequence[Part], modules_to_save: Sequence[str], base_model: str | None
) -> dict[str, Any]:
    """The configuration of an adapter.

    Layers are named in full, since a short name such as `dense` would also match the pooler.

    Raises:
        InputError: if the parts differ in rank or scale, or the format does not support the mode.
    """
    first, own = parts[0], METHODS[mode].peft
    if own is None:
        raise InputError(f"adapters of mode {mode} have no form in PEFT's format")
    if len({(part.rank, part.alpha) for part in parts}) > 1:
        raise InputError("adapters are saved with one rank and one scale for all layers")
    return {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(first.alpha) if first.alpha.is_integer() else first.alpha,
        "lora_dropout": 0.0,
        "modules_to_save": list(modules_to_save),
        "peft_type": "LORA",
        "r": first.rank,
        "target_modules": [part.name for part in parts],
        "task_type": "SEQ_CLS",
        "use_rslora": False,
        **own,
    }


def _adapter_tensors(layers: Iterable[AdaptedLinear]) -> dict[str, Tensor]:
    """The parameters of adapters by the format's keys, as views in the format's shapes."""
    return {
        f"{_PREFIX}{part.name}.{layer.method.parameters[name]}": tensor
        for layer in layers
        for index, part in enumerate(layer.parts)
        if part.rank > 0
        for name, tensor in layer.part_tensors(index).items()
    }


def _base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All other tensors of a model by their names in a BERT checkpoint, as views."""
    owners = dict(model.named_modules())
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        owner, _, own = name.rpartition(".")
        module = owners[owner]
        if isinstance(module, AdaptedLinear) and own in module.method.parameters:
            continue
        parts = part_names(owner)
        for part, rows in zip(parts, tensor.chunk(len(parts)), strict=True):
            tensors[f"{part}.{own}"] = rows
    return tensors


def _inside(base: Mapping[str, Tensor], modules: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of the named modules, by their keys in an adapter's file."""
    stems = tuple(f"{module}." for module in modules)
    return {_PREFIX + name: tensor for name, tensor in base.items() if name.startswith(stems)}


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    copies = {key: tensor.to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
    save_file(copies, path, {"format": "pt"})
