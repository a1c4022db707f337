"""Reading of the contents of PEFT's adapter_config.json, as plain data.

Options of PEFT that these adapters do not support are refused, not ignored.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from adapters.layer import Part
from adapters.methods import METHODS
from minbert.errors import InputError

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

_HEADS: Final = {"SEQ_CLS": ("classifier", "score"), "FEATURE_EXTRACTION": (), None: ()}
"""Modules that PEFT saves by default for a task type."""

_Name = Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,200}$")]


class _Config(BaseModel):
    """The keys of the file that are read."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    peft_type: Literal["LORA"]
    task_type: Literal["SEQ_CLS", "FEATURE_EXTRACTION"] | None = None
    r: int = Field(ge=1, le=2**24)
    lora_alpha: float = Field(gt=0, le=1e12)
    target_modules: list[_Name] = Field(max_length=10_000)
    modules_to_save: list[_Name] | None = Field(None, max_length=100)
    use_dora: bool = False
    use_rslora: bool = False
    # the others change the base weights, and PEFT repeats that on loading
    init_lora_weights: Literal[True, False, "gaussian", "eva", "orthogonal"] = True


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


def shown(value: Any) -> str:
    """A value from a file on one line, cut if it is long."""
    try:
        return ascii(value)[:80]
    except RecursionError:
        return "something nested too deeply"


def parse(
    config: Mapping[str, Any], *, linear_names: Iterable[str], module_names: Iterable[str]
) -> AdapterConfig:
    """Read a configuration for a model with these names.

    As in PEFT, `target_modules` holds endings of names, and a layer inside a module that is saved
    whole is no target. A regular expression in place of the list is refused.

    Args:
        config: the JSON object.
        linear_names: the format's names of the model's linear layers.
        module_names: names of all its modules.

    Raises:
        InputError: if the configuration is of another kind of adapter, malformed, or asks for an
            option that these adapters do not support.
    """
    try:
        read = _Config.model_validate(config)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0])
        given = f"is {shown(config[key])}" if key in config else "is missing"
        raise InputError(f"{key} {given} in the adapter's config: {first['msg']}") from error
    for key, value in (read.model_extra or {}).items():
        # 0 is a value: layers_to_transform counts from it
        is_off = value is None or value is False or value in ([], {}, "none")
        if key not in _WITHOUT_EFFECT and not is_off:
            name = key[:80] if key.isidentifier() else shown(key)
            raise InputError(f"the adapter's config sets {name}, which is not supported here")
    modules = [*(read.modules_to_save or ()), *_HEADS[read.task_type]]
    parts = {
        name: Part(name=name, rank=read.r, alpha=read.lora_alpha, rslora=read.use_rslora)
        for name in linear_names
        if _ends_with(name, read.target_modules)
        and not any(f".{module}." in f".{name}." for module in modules)
    }
    if not parts:
        targets = shown(read.target_modules)
        raise InputError(f"target_modules {targets} names no linear layer of this model")
    saved = [name for name in module_names if _ends_with(name, modules)]
    flags = read.model_dump()
    mode = next(
        mode
        for mode, method in METHODS.items()
        if method.peft is not None
        and all(flags.get(flag) == value for flag, value in method.peft.items())
    )
    return AdapterConfig(mode, parts, saved)


def _ends_with(name: str, endings: Iterable[str]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)
