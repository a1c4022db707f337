"""What has to be known of an encoder before transformers is imported: peculiarities of its
architecture, by the `model_type` of its config.json, and its sizes. Free of torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.common.errors import InputError
from bench.common.files import read_tables
from bench.common.messages import shown
from minbert.files import config_file, read_json
from minbert.model.config import BERT, FAMILIES, BertConfig, EncoderSizes


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """With `first_position`, positions count from the id of padding plus 1, so that as many of them
    are not for text."""

    name: str  # for people
    first_position: bool = False
    has_sdpa: bool = True  # whether transformers uses torch's fused kernels for its attention


_TABLES: Final = read_tables(__file__, "architectures.toml")
ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    model_type: Architecture(
        **{"first_position": FAMILIES.get(model_type, BERT).first_position, **table}
    )
    for model_type, table in _TABLES["architectures"].items()
}
_MOST: Final = 2**24


def model_type_of(folder: Path) -> str:
    """The `model_type` of the checkpoint in a folder; files from before 2020 lack BERT's.
    InputError without such a folder or file, or for broken JSON."""
    model_type = read_json(config_file(folder)).get("model_type", "bert")
    return model_type if isinstance(model_type, str) else shown(model_type)


def read_sizes(folder: Path) -> EncoderSizes:
    """The sizes of the encoder in a folder; an InputError names the file and the key, if one is
    missing or impossible."""
    path = config_file(folder)
    values = read_json(path)
    if values.get("auto_map") and values.get("model_type") not in ARCHITECTURES:
        raise InputError(
            f"{path}: the model needs code that comes with it (auto_map), and no code of a "
            "checkpoint is run (trust_remote_code is off); take a model that transformers itself "
            "implements"
        )
    model_type = model_type_of(folder)
    architecture = ARCHITECTURES.get(model_type)
    after_padding = architecture is not None and architecture.first_position
    if after_padding:
        values.setdefault("pad_token_id", 1)
    sizes = {name: _size(values, name, path) for name in _TABLES["sizes"]}
    if after_padding:
        sizes["max_position_embeddings"] -= sizes["pad_token_id"] + 1
    return EncoderSizes(model_type=model_type, **sizes)


def _size(values: Mapping[str, Any], name: str, path: Path) -> int:
    keys = (name, *_TABLES["sizes"][name])
    given = next((key for key in keys if values.get(key) is not None), None)
    value = _TABLES["defaults"].get(name) if given is None else values[given]
    if value is None and name == "intermediate_size":  # GPT-2's; the check refuses decoders by name
        value = 4 * _size(values, "hidden_size", path)
    if value is None:
        raise InputError(f"{path}: lacks {name}, which the config.json of an encoder has")
    least = 0 if name == "pad_token_id" else 1
    if type(value) is not int or not least <= value <= _MOST:
        raise InputError(
            f"{path}: {given or name} must be a whole number from {least} to {_MOST}, not "
            f"{shown(value)}"
        )
    return value


def attention_of(config: EncoderSizes | BertConfig) -> str:
    """What `attn_implementation` auto stands for."""
    model_type = config.model_type if isinstance(config, EncoderSizes) else "bert"
    architecture = ARCHITECTURES.get(model_type)
    return "sdpa" if architecture is not None and architecture.has_sdpa else "eager"
