"""Saving and loading adapters in PEFT's format: adapter_config.json, adapter_model.safetensors.

The format holds adapters, the head, and whole modules, but no base weights. If the base trains too,
all other weights are saved in a second file, model.safetensors, under their names in a BERT
checkpoint, and the adapter's file says so in its metadata.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from adapters.injection import (
    HEADS,
    POOLERS,
    Training,
    freeze,
    inject_parts,
    layer_class,
    linear_layers,
    part_names,
    training_of,
)
from adapters.layer import AdaptedLinear, Part
from adapters.methods import METHODS
from adapters.patterns import shown
from adapters.peft_config import AdapterConfig, build, parse
from minbert.errors import InputError

CONFIG: Final = "adapter_config.json"
ADAPTER: Final = "adapter_model.safetensors"
BASE: Final = "model.safetensors"

_PREFIX: Final = "base_model.model."
_BASE_KEY: Final = "base_weights"
_LARGEST_CONFIG: Final = 2**22
_LOADED: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types that need no separate scale, as types of fewer bits do."""


def save_adapter(
    model: nn.Module,
    folder: Path,
    base_model: str | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Save a model's adapters, its head and all else that has trained into a folder.

    An adapter that the folder holds is replaced. If writing is interrupted, there is no
    adapter_config.json, so that the folder can't be mistaken for a complete one.

    Args:
        model: with adapters.
        folder: created if missing.
        base_model: name or path of the base model, for the reader's information.
        notes: settings that the format has no place for, such as the pooling that the head was
            trained with; written to the metadata of the tensors' file.

    Raises:
        InputError: if the model has no adapters.
        OSError: if the folder can't be written.
    """
    adapted = [layer for layer in model.modules() if isinstance(layer, AdaptedLinear)]
    if not adapted:
        raise InputError("the model has no adapters to save; inject or load some first")
    training = training_of(model)
    named = {name for name, _ in model.named_modules()}
    whole = [name for name in HEADS if name in named]
    if training.new_pooler:
        whole += [name for name in POOLERS if name in named]
    config = build(
        mode=training.mode,
        parts=[part for layer in adapted for part in layer.parts if part.rank > 0],
        modules_to_save=[*whole, "score"],
        base_model=base_model,
    )
    base = _base_tensors(model)
    tensors = _adapter_tensors(model) | _inside(base, whole)
    metadata = {**(notes or {}), "format": "pt"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    if training.base:
        _write_tensors(folder / BASE, base, metadata)
        metadata = {**metadata, _BASE_KEY: BASE}
    _write_tensors(folder / ADAPTER, tensors, metadata)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    _write(folder / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Load a saved adapter, ours or PEFT's, into a model, with the head and all else saved.

    The parts of a fused layer, such as query, key and value, may have adapters of different ranks
    and scales, or none.

    Args:
        model: the base model that the adapter was trained on, without adapters.
        folder: with the adapter's files.

    Raises:
        InputError: if a file is missing or broken, the config asks for an unsupported option, or
        the
            tensors do not fit config and model. The model is then unchanged.
    """
    config = _configured(model, folder / CONFIG)
    base = _base_tensors(model)
    saved = _inside(base, config.saved)
    tensors, metadata = _read_tensors(folder / ADAPTER)
    _check(folder / ADAPTER, tensors, _adapter_shapes(model, config) | _shapes(saved))
    weights: dict[str, Tensor] = {}
    if _BASE_KEY in metadata:
        weights, _ = _read_tensors(folder / BASE)
        _check(folder / BASE, weights, _shapes(base))
    try:
        inject_parts(model, config.mode, config.parts)
    except InputError as error:
        raise InputError(f"{folder / CONFIG}: {error}") from error
    for key, value in weights.items():
        base[key].copy_(value)
    for key, tensor in (saved | _adapter_tensors(model)).items():
        tensor.copy_(tensors[key])
    pooler = any(name.startswith(POOLERS) for name in config.saved)
    freeze(model, Training(config.mode, base=_BASE_KEY in metadata, new_pooler=pooler))


def _configured(model: nn.Module, path: Path) -> AdapterConfig:
    """The configuration in a file, for a model."""
    values = _read_config(path)
    try:
        config = parse(
            values,
            linear_names=[part for _, _, names in linear_layers(model) for part in names],
            module_names=[name for name, _ in model.named_modules()],
        )
        for name in config.saved:
            if not f"{name}.".startswith(tuple(f"{module}." for module in (*HEADS, *POOLERS))):
                raise InputError(
                    f"modules_to_save includes {name}; only the head and the pooler can be saved "
                    "whole"
                )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return config


def _keys(mode: str, part: Part) -> dict[str, str]:
    """The format's keys of a part's parameters, by parameter name."""
    endings = METHODS[mode].parameters
    return {name: f"{_PREFIX}{part.name}.{ending}" for name, ending in endings.items()}


def _adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The adapters of a model by the format's keys, as views in the format's shapes."""
    tensors: dict[str, Tensor] = {}
    for layer in model.modules():
        if not isinstance(layer, AdaptedLinear):
            continue
        for index, part in enumerate(layer.parts):
            if part.rank > 0:
                keys = _keys(layer.method.name, part)
                named = layer.part_tensors(index)
                tensors |= {keys[name]: tensor for name, tensor in named.items()}
    return tensors


def _adapter_shapes(model: nn.Module, config: AdapterConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of `_adapter_tensors` once the configured adapters are in the plain model."""
    shapes: dict[str, tuple[int, ...]] = {}
    shapes_of = layer_class(config.mode).part_shapes
    for _, linear, names in linear_layers(model):
        height = linear.out_features // len(names)
        for part in (config.parts[name] for name in names if name in config.parts):
            keys = _keys(config.mode, part)
            part_shapes = shapes_of(part, linear.in_features, height)
            shapes |= {keys[name]: shape for name, shape in part_shapes.items()}
    return shapes


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


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def _check(
    path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise InputError unless a file's tensors are floating-point and of these keys and shapes."""
    faults = [f"lacks {key}" for key in shapes if key not in tensors]
    faults += [f"has an unexpected {shown(key)}" for key in tensors if key not in shapes]
    for key, shape in shapes.items():
        tensor = tensors.get(key)
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            faults.append(f"has {key} of {list(tensor.shape)} in place of {list(shape)}")
        elif tensor.dtype not in _LOADED:
            faults.append(
                f"has {key} in {tensor.dtype}, which is no floating-point type of 16 bits or more"
            )
    if faults:
        more = f" (and {len(faults) - 1} more such faults)" if len(faults) > 1 else ""
        raise InputError(f"{path} {faults[0]}{more}; is it of this model and config?")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        if (path.exists() and not path.is_file()) or path.stat().st_size > _LARGEST_CONFIG:
            raise InputError(f"{path} is no file of at most {_LARGEST_CONFIG:,} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no JSON object")
    return config


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file, and its metadata."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is no file")
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    except InputError:
        raise
    except Exception as error:  # torch raises others for shapes and types that it does not support
        reason = shown(str(error)).strip("'\"")
        raise InputError(f"{path} is damaged: {reason}; save or download it again") from error


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    copies = {key: tensor.to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}

    def write(temporary: Path) -> None:
        try:
            save_file(copies, temporary, metadata)
        except SafetensorError as error:
            raise OSError(f"{path} can't be written: {error}") from error

    _write(path, write)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, flush it to disk, and rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
