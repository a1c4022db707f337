"""Reading and making of the contents of PEFT's adapter_config.json, as plain data.

Options of PEFT that these adapters do not support are refused, not ignored.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from adapters.layer import Part
from adapters.methods import METHODS
from adapters.patterns import compiled, count_repeats, shown
from minbert.errors import InputError

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
"""Keys that do not change the results of a saved adapter: dropout acts only in PEFT's training, and
two keys belong to options that are off."""

_KEEPING_THE_BASE: Final = (True, False, "gaussian", "eva", "orthogonal")
"""Initialisations that do not change the base weight; PEFT repeats the others on loading."""

_LARGEST_RANK: Final = 2**24
_LARGEST_ALPHA: Final = 1e12
_MOST_REPEATS: Final = 4
"""Repeats allowed in the expression for the layers' names."""
_MOST_REPEATS_IN_KEYS: Final = (3, 30)
"""Repeats allowed in a key of a pattern, and in all of its keys together."""
_MOST_MODULES: Final = 100
_NAME: Final = re.compile(r"[\w.-]{1,200}")

_HEADS: Final = {"SEQ_CLS": ("classifier", "score"), "FEATURE_EXTRACTION": (), None: ()}
"""Modules that PEFT saves by default for a task type."""


Patterns = list[tuple[re.Pattern[str], float]]
"""Expressions and values; the first expression that matches a name gives its value."""


@dataclass(frozen=True)
class AdapterConfig:
    """The contents of a saved adapter.

    Attributes:
        mode: one with adapters.
        parts: the adapted layers, by name.
        saved: names of the modules whose whole weights are saved with it.
    """

    mode: str
    parts: Mapping[str, Part]
    saved: Sequence[str]


def parse(
    config: Mapping[str, Any], *, linear_names: Iterable[str], module_names: Iterable[str]
) -> AdapterConfig:
    """Read a configuration for a model with these names.

    Args:
        config: the JSON object.
        linear_names: the format's names of the model's linear layers.
        module_names: names of all its modules.

    Raises:
        InputError: if the configuration is of another kind of adapter, malformed, or asks for an
            option that these adapters do not support.
    """
    _refuse_unknown(config)
    modules = _strings(config.get("modules_to_save") or [], "modules_to_save")
    if len(modules) > _MOST_MODULES:
        raise InputError(f"modules_to_save in the adapter's config holds {len(modules)} names")
    if strange := [module for module in modules if not _NAME.fullmatch(module)]:
        raise InputError(f"modules_to_save holds {shown(strange[0])}, which is no module's name")
    modules += _HEADS[config.get("task_type")]
    targets = config.get("target_modules")
    target = (
        compiled(targets, _MOST_REPEATS)
        if isinstance(targets, str)
        else _strings(targets, "target_modules")
    )
    rank = _number(config.get("r"), "r", whole=True)
    alpha = _number(config.get("lora_alpha"), "lora_alpha")
    ranks = _pattern(config.get("rank_pattern"), "rank_pattern", whole=True)
    alphas = _pattern(config.get("alpha_pattern"), "alpha_pattern")
    use_rslora = _flag(config, "use_rslora")
    parts = {
        name: Part(
            name=name,
            rank=int(_by_pattern(ranks, name, rank)),
            alpha=_by_pattern(alphas, name, alpha),
            rslora=use_rslora,
        )
        for name in linear_names
        if _is_target(name, target, modules)
    }
    if not parts:
        raise InputError(f"target_modules {shown(targets)} names no linear layer of this model")
    saved = [name for name in module_names if any(_ends_with(name, m) for m in modules)]
    return AdapterConfig(_mode(config), parts, saved)


def build(
    *, mode: str, parts: Sequence[Part], modules_to_save: Sequence[str], base_model: str | None
) -> dict[str, Any]:
    """The configuration of an adapter: the inverse of `parse`.

    Layers are named in full, since a short name such as `dense` would also match the pooler. Ranks
    and alphas other than the first part's are written as PEFT's patterns.

    Raises:
        InputError: if some parts are scaled by √rank and others by rank, or the format does not
            support the mode.
    """
    first, own = parts[0], METHODS[mode].peft
    if own is None:
        raise InputError(f"adapters of mode {mode} have no form in PEFT's format")
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
        "use_rslora": first.rslora,
        **own,
    }


def _mode(config: Mapping[str, Any]) -> str:
    """The mode with the flags of a configuration."""
    known = {mode: method.peft for mode, method in METHODS.items() if method.peft is not None}
    flags = {flag: _flag(config, flag) for own in known.values() for flag in own}
    return next(mode for mode, own in known.items() if own.items() <= flags.items())


def _refuse_unknown(config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(f"peft_type is {shown(kind)}; only LORA adapters can be loaded")
    task = config.get("task_type")
    if not isinstance(task, str | None) or task not in _HEADS:
        raise InputError(f"task_type is {shown(task)}; only SEQ_CLS adapters can be loaded")
    start = config.get("init_lora_weights", True)
    if start not in _KEEPING_THE_BASE:
        raise InputError(
            f"init_lora_weights is {shown(start)}, which changes the base weights; convert the "
            "adapter to a plain one with PEFT first"
        )
    for name, value in config.items():
        if name in _READ or name in _WITHOUT_EFFECT:
            continue
        # 0 is a value: layers_to_transform counts from it
        off = value is None or value is False or value in ([], {}, "none")
        if not off:
            key = name[:80] if name.isidentifier() else shown(name)
            raise InputError(f"the adapter's config sets {key}, which is not supported here")


def _is_target(name: str, target: re.Pattern[str] | Sequence[str], modules: Sequence[str]) -> bool:
    """PEFT's rule: a string is a regular expression for the whole name, and a list holds endings; a
    layer inside a module that is saved whole is no target."""
    if any(re.match(rf"(^|.*\.){module}($|\..*)", name) for module in modules):
        return False
    if isinstance(target, re.Pattern):
        return target.fullmatch(name) is not None
    return any(_ends_with(name, ending) for ending in target)


def _by_pattern(pattern: Patterns, name: str, default: float) -> float:
    """PEFT's rule: the first key that matches the end of the name, from a dot on."""
    for key, value in pattern:
        if key.match(name):
            return value
    return default


def _ends_with(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _strings(value: Any, name: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{_given(name, value)}; it must be a list of names")
    return list(value)


def _number(value: Any, name: str, *, whole: bool = False) -> float:
    most = _LARGEST_RANK if whole else _LARGEST_ALPHA
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not is_number or not -most <= value <= most:
        kind = "whole number" if whole else "number"
        raise InputError(f"{_given(name, value)}; it must be a {kind}, at most {most:,.0f}")
    number: float = value
    return number


def _pattern(value: Any, name: str, *, whole: bool = False) -> Patterns:
    if value is None:
        return []
    if not isinstance(value, dict):
        raise InputError(f"{_given(name, value)}; it must be an object")
    most, most_in_all = _MOST_REPEATS_IN_KEYS
    if sum(map(count_repeats, value)) > most_in_all:
        raise InputError(f"{name} in the adapter's config has too many patterns; name the layers")
    return [
        (
            compiled(key, most, (r"(.*\.)?(", ")$")),
            _number(item, f"{name}[{shown(key)}]", whole=whole),
        )
        for key, item in value.items()
    ]


def _flag(config: Mapping[str, Any], name: str) -> bool:
    value = config.get(name, False)
    if not isinstance(value, bool):
        raise InputError(f"{_given(name, value)}; it must be true or false")
    return value


def _given(name: str, value: Any) -> str:
    return f"{name} is {shown(value)} in the adapter's config"


def _json_number(value: float) -> float:
    """A number as PEFT writes it: as an integer if it is whole."""
    return int(value) if value == int(value) else value
