"""The contents of PEFT's adapter_config.json, as plain data: read into parts, and made from them.

What PEFT can configure and these adapters can't do is refused, not passed over.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from adapters.errors import InputError
from adapters.layer import Part

_READ: Final = {
    "peft_type",
    "task_type",
    "r",
    "lora_alpha",
    "target_modules",
    "rank_pattern",
    "alpha_pattern",
    "use_dora",
    "use_rslora",
    "modules_to_save",
    "init_lora_weights",
}
_WITHOUT_EFFECT: Final = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
}
"""They change nothing of what a saved adapter computes: dropout does so in PEFT's training alone,
and two belong to options that are off."""

_KEEPING_THE_BASE: Final = (True, False, "gaussian", "eva", "orthogonal")
"""The initialisations that leave the base weight as it is; PEFT repeats the others on loading."""

_HEADS: Final = {"SEQ_CLS": ("classifier", "score"), "FEATURE_EXTRACTION": (), None: ()}
"""What PEFT saves by itself for a task type."""


@dataclass(frozen=True)
class AdapterConfig:
    """What a saved adapter is.

    Attributes:
        mode: `lora` or `dora`.
        parts: the adapted layers, by name.
        saved: names of the modules whose whole weights are saved beside them.
    """

    mode: str
    parts: Mapping[str, Part]
    saved: Sequence[str]


def parse(
    config: Mapping[str, Any], *, linear_names: Iterable[str], module_names: Iterable[str]
) -> AdapterConfig:
    """Read a configuration, for a model of which these names are known.

    Args:
        config: the JSON object.
        linear_names: the format's names of the model's linear layers.
        module_names: names of all its modules.

    Raises:
        InputError: if the configuration is of another kind of adapter, malformed, or asks for what
            these adapters can't do.
    """
    _refuse_unknown(config)
    modules = _strings(config.get("modules_to_save") or [], "modules_to_save")
    modules += _HEADS[config.get("task_type")]
    targets = config.get("target_modules")
    if not isinstance(targets, str):
        targets = _strings(targets, "target_modules")
    rank = _number(config.get("r"), "r", whole=True)
    alpha = _number(config.get("lora_alpha"), "lora_alpha")
    ranks = _pattern(config.get("rank_pattern"), "rank_pattern", whole=True)
    alphas = _pattern(config.get("alpha_pattern"), "alpha_pattern")
    use_rslora = _flag(config, "use_rslora")
    try:
        parts = {
            name: Part(
                name=name,
                rank=int(_by_pattern(ranks, name, rank)),
                alpha=_by_pattern(alphas, name, alpha),
                rslora=use_rslora,
            )
            for name in linear_names
            if _is_target(name, targets, modules)
        }
    except re.error as error:
        raise InputError(
            f"a pattern in the adapter's config is no regular expression: {error}"
        ) from error
    if not parts:
        raise InputError(f"target_modules {targets!r} names no linear layer of this model")
    saved = [name for name in module_names if any(_ends_with(name, m) for m in modules)]
    return AdapterConfig("dora" if _flag(config, "use_dora") else "lora", parts, saved)


def build(
    *, mode: str, parts: Sequence[Part], modules_to_save: Sequence[str], base_model: str | None
) -> dict[str, Any]:
    """The configuration of an adapter: the inverse of `parse`.

    Layers are named in full, since a short name such as `dense` would also match the pooler. Ranks
    and alphas that differ from the first part's stand in PEFT's patterns.

    Raises:
        InputError: if some parts are scaled by √rank and others by rank.
    """
    first = parts[0]
    if any(part.rslora != first.rslora for part in parts):
        raise InputError("PEFT's format holds rsLoRA for all layers or for none")
    return {
        "alpha_pattern": {
            re.escape(part.name): _json_number(part.alpha)
            for part in parts
            if part.alpha != first.alpha
        },
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": _json_number(first.alpha),
        "lora_dropout": 0.0,
        "modules_to_save": list(modules_to_save),
        "peft_type": "LORA",
        "r": first.rank,
        "rank_pattern": {
            re.escape(part.name): part.rank for part in parts if part.rank != first.rank
        },
        "target_modules": [part.name for part in parts],
        "task_type": "SEQ_CLS",
        "use_dora": mode == "dora",
        "use_rslora": first.rslora,
    }


def _refuse_unknown(config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(f"peft_type is {kind!r}; only LORA adapters can be loaded")
    task = config.get("task_type")
    if not isinstance(task, str | None) or task not in _HEADS:
        raise InputError(f"task_type is {task!r}; only SEQ_CLS adapters can be loaded")
    start = config.get("init_lora_weights", True)
    if start not in _KEEPING_THE_BASE:
        raise InputError(
            f"init_lora_weights is {start!r}, which changes the base weights; convert the adapter "
            "to a plain one with PEFT first"
        )
    for name, value in config.items():
        if name in _READ or name in _WITHOUT_EFFECT:
            continue
        # 0 is a value: layers_to_transform counts from it
        off = value is None or value is False or value in ([], {}, "none")
        if not off:
            raise InputError(f"the adapter's config sets {name}, which is not supported here")


def _is_target(name: str, targets: str | Sequence[str], modules: Sequence[str]) -> bool:
    """PEFT's rule: a string is a regular expression for the whole name, a list holds endings; no
    layer inside a module that is saved whole."""
    if any(re.match(rf"(^|.*\.){module}($|\..*)", name) for module in modules):
        return False
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(_ends_with(name, target) for target in targets)


def _by_pattern(pattern: Mapping[str, float], name: str, default: float) -> float:
    """PEFT's rule: the first key that matches the end of the name, from a dot on."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return default


def _ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _strings(value: Any, name: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{name} is {value!r} in the adapter's config; it must be a list of names")
    return list(value)


def _number(value: Any, name: str, *, whole: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise InputError(f"{name} is {value!r} in the adapter's config; it must be a number")
    return value


def _pattern(value: Any, name: str, *, whole: bool = False) -> dict[str, float]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{name} is {value!r} in the adapter's config; it must be an object")
    return {key: _number(item, f"{name}[{key!r}]", whole=whole) for key, item in value.items()}


def _flag(config: Mapping[str, Any], name: str) -> bool:
    value = config.get(name, False)
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r} in the adapter's config; it must be true or false")
    return value


def _json_number(value: float) -> float:
    """A number that is whole as an integer, as PEFT writes it."""
    return int(value) if value == int(value) else value
