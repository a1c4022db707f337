"""What has to be known of an encoder before transformers is imported: peculiarities of its
architecture, by the `model_type` of its config.json, and its sizes. Free of torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.common.errors import InputError, refusals
from bench.common.files import read_tables
from bench.common.messages import shown
from minbert.files import config_file, read_json
from minbert.model.config import BertConfig, EncoderSizes
from minbert.model.families import BERT, FAMILIES

_refusal: Final = refusals(__file__)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """With `first_position`, positions count from the id of padding plus 1, so that as many of them
    are not for text."""

    name: str  # for people
    first_position: bool = False
    has_sdpa: bool = True  # whether transformers uses torch's fused kernels for its attention


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    model_type: Architecture(
        **{"first_position": FAMILIES.get(model_type, BERT).first_position, **table}
    )
    for model_type, table in read_tables(__file__, "architectures.toml").items()
}
_OTHER: Final = Architecture(name="another", has_sdpa=False)
_OTHER_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "hidden_size": ("dim", "d_model", "n_embd"),
    "num_hidden_layers": ("n_layers", "num_layers", "n_layer"),
    "intermediate_size": ("hidden_dim", "d_ff", "ffn_dim"),
    "vocab_size": (),
    "max_position_embeddings": ("max_seq_len", "n_positions", "max_sequence_length"),
    "pad_token_id": (),
}
"""Names in a config.json, before those that some architectures have instead."""
_DEFAULTS: Final = {"pad_token_id": 0, "max_position_embeddings": 512}
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
        raise _refusal("code", path=path)
    model_type = model_type_of(folder)
    after_padding = ARCHITECTURES.get(model_type, _OTHER).first_position
    if after_padding:
        values.setdefault("pad_token_id", 1)
    sizes = {name: _size(values, name, path) for name in _OTHER_NAMES}
    if after_padding:
        sizes["max_position_embeddings"] -= sizes["pad_token_id"] + 1
    return EncoderSizes(model_type=model_type, **sizes)


def _size(values: Mapping[str, Any], name: str, path: Path) -> int:
    given = next((key for key in (name, *_OTHER_NAMES[name]) if values.get(key) is not None), None)
    value = _DEFAULTS.get(name) if given is None else values[given]
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
    return "sdpa" if ARCHITECTURES.get(config.model_type, _OTHER).has_sdpa else "eager"
