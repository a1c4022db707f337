"""The shape of an encoder like BERT: read from a config.json, or one of the named geometries; and
what differs from BERT in the names and small things of others, by their `model_type`: families.toml
in this folder.

Free of torch, so that planning stays light.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from minbert.errors import InputError, shown
from minbert.files import config_file, read_json
from minbert.registry import read_tables

ACTIVATIONS: Final = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
"""`gelu` is the exact one, by erf; `gelu_new` and `gelu_pytorch_tanh` its tanh approximation."""

_REQUIRED_SIZES: Final = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size",
)  # fmt: skip
_OTHER_SIZES: Final = ("max_position_embeddings", "type_vocab_size")
_PROBABILITIES: Final = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_POSITIVE: Final = ("layer_norm_eps", "initializer_range")
ONLY: Final = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "quantization_config": None,
}
"""Keys that can change the network, each with the one supported value."""

_LARGEST_SIZE: Final = 2**24
_MOST_LAYERS: Final = 1024
_MOST_PARAMETERS: Final = 10**11
_LAYER: Final = re.compile(r"encoder\.layer\.(\d+)\.([\w.]+?)(?:\.(weight|bias))?$")


@dataclass(frozen=True, kw_only=True)
class Head:
    """The architecture's own head on the first token: a linear layer, an activation, dropout and
    another linear layer, called by these names in its checkpoints."""

    dense: str = "classifier.dense"
    out: str = "classifier.out_proj"
    activation: str = "tanh"
    drops_input: bool = True  # whether dropout comes before the first layer, too


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the checkpoints of an architecture differ from those of BERT."""

    prefix: str  # name of the encoder in a model with a head
    classes: str  # beginning of the names of its classes in transformers
    sizes: Mapping[str, str] = field(default_factory=dict)  # keys of config.json, by BERT's
    layers: str = "encoder.layer"  # name of the list of layers
    modules: Mapping[str, str] = field(default_factory=dict)  # names within a layer, by BERT's
    types: bool = True  # whether there are embeddings of token types
    first_position: bool = False  # whether positions count from the id of padding plus 1
    projects: bool = False  # whether embeddings may have a width of their own
    has_pooler: bool = True  # whether its class in transformers takes `add_pooling_layer`
    head: Head | None = None  # None: BERT's, of a pooler in the encoder and a linear layer

    def name_of(self, name: str) -> str:
        """The name in this architecture of a module or parameter of an encoder, from BERT's."""
        if not (match := _LAYER.match(name)):
            return name
        number, module, leaf = match.groups()
        parts = (self.layers, number, self.modules.get(module, module), leaf)
        return ".".join(filter(None, parts))

    def name_in_model(self, name: str) -> str:
        """Likewise of one of a whole model, whose encoder is called `bert`."""
        encoder, _, own = name.partition(".")
        if encoder == "bert":
            return f"{self.prefix}.{self.name_of(own)}"
        if self.head is not None and encoder == "classifier":
            for ours, theirs in (("dense", self.head.dense), ("out_proj", self.head.out)):
                if own == ours or own.startswith(f"{ours}."):
                    return theirs + own.removeprefix(ours)
        return name


FAMILIES: Final[Mapping[str, Family]] = {
    model_type: Family(**table | {"head": Head(**table["head"])} if "head" in table else table)
    for model_type, table in read_tables(__file__, "families.toml").items()
}
BERT: Final = FAMILIES["bert"]


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Sizes and constants of an encoder, under the names they have in a config.json."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int = 30522
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    pad_token_id: int = 0
    model_type: str = "bert"
    embedding_size: int | None = None  # width of the embeddings, if it is not the hidden size
    first_position: int = 0  # rows of the table of positions before that of the first token

    @property
    def family(self) -> Family:
        return FAMILIES[self.model_type]

    def values(self) -> dict[str, Any]:
        """The fields by name; of those that BERT has not, only what differs from it."""
        return {
            name: value
            for name, value in vars(self).items()
            if name not in _NOT_OF_BERT or value != getattr(BertConfig, name)
        }

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """The configuration of the checkpoint in a folder. InputError for no such folder or file,
        broken JSON, another architecture, or a value that is missing, impossible or not supported.
        """
        path = config_file(folder)
        return cls.from_values(read_json(path), str(path))

    @classmethod
    def from_values(cls, values: dict[str, Any], source: str) -> Self:
        """The configuration in the object of a config.json called `source`, as `from_folder`."""
        model_type = values.get("model_type", "bert")  # files from before 2020 lack it
        family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
        if family is None:
            raise InputError(
                f"{source}: model_type is {shown(model_type)}, and engine minbert loads "
                f"{', '.join(FAMILIES)}"
            )
        named = {ours: values[name] for ours, name in family.sizes.items() if name in values}
        values = {**values, **named}
        for key, only in ONLY.items():
            if values.get(key, only) != only:
                raise InputError(f"{source}: {key} {shown(values[key])} is not supported")
        missing = [key for key in _REQUIRED_SIZES if key not in values]
        if missing:
            keys = ", ".join(family.sizes.get(key, key) for key in missing)
            raise InputError(f"{source}: lacks {keys}, which a config.json of {model_type} has")

        fields: dict[str, Any] = {}
        for key in (*_REQUIRED_SIZES, *_OTHER_SIZES):
            if key in values:
                most = _MOST_LAYERS if key == "num_hidden_layers" else _LARGEST_SIZE
                fields[key] = _size(values[key], most, f"{source}: {key}")
        for key in (*_PROBABILITIES, *_POSITIVE):
            if key in values:
                fields[key] = _fraction(values[key], key in _PROBABILITIES, f"{source}: {key}")
        if (pad := values.get("pad_token_id")) is not None:
            last = fields["vocab_size"] - 1
            fields["pad_token_id"] = _size(pad, last, f"{source}: pad_token_id", least=0)
        if "hidden_act" in values:
            fields["hidden_act"] = values["hidden_act"]
            if fields["hidden_act"] not in ACTIVATIONS:
                raise InputError(
                    f"{source}: hidden_act {shown(fields['hidden_act'])} is not supported; known "
                    f"are {', '.join(ACTIVATIONS)}"
                )
        if fields["hidden_size"] % fields["num_attention_heads"]:
            raise InputError(
                f"{source}: hidden_size {fields['hidden_size']} is no multiple of "
                f"num_attention_heads {fields['num_attention_heads']}"
            )
        fields["model_type"] = model_type
        if not family.types:
            fields["type_vocab_size"] = 0
        width = values.get("embedding_size") if family.projects else None
        if width not in (None, fields["hidden_size"]):
            fields["embedding_size"] = _size(width, _LARGEST_SIZE, f"{source}: embedding_size")
        if family.first_position:
            fields["first_position"] = fields.setdefault("pad_token_id", 1) + 1
            fields["max_position_embeddings"] = _size(
                fields.get("max_position_embeddings", 512) - fields["first_position"],
                _LARGEST_SIZE,
                f"{source}: max_position_embeddings without {fields['first_position']}",
            )
        config = cls(**fields)
        if (count := count_parameters(config)) > _MOST_PARAMETERS:
            raise InputError(f"{source}: with {count:,} parameters in all, which no BERT has")
        return config


@dataclass(frozen=True, kw_only=True)
class EncoderSizes:
    """The sizes of an encoder of any architecture, under BERT's names. `max_position_embeddings` is
    the longest text in tokens."""

    model_type: str
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    pad_token_id: int
    type_vocab_size: int = 2


_NOT_OF_BERT: Final = ("model_type", "embedding_size", "first_position")
GEOMETRIES: Final = {
    name: BertConfig(**sizes) for name, sizes in read_tables(__file__, "geometries.toml").items()
}
"""Sizes that can be measured with random weights."""


def count_parameters(config: BertConfig | EncoderSizes) -> int:
    """The number of parameters of an encoder with a pooler."""
    hidden, wide = config.hidden_size, config.intermediate_size
    norm = 2 * hidden
    rows = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    attention = 4 * (hidden + 1) * hidden
    feed_forward = (hidden + 1) * wide + (wide + 1) * hidden
    layers = config.num_hidden_layers * (attention + feed_forward + 2 * norm)
    return rows * hidden + norm + layers + (hidden + 1) * hidden


def _size(value: Any, most: int, what: str, least: int = 1) -> int:
    if type(value) is not int or not least <= value <= most:
        raise InputError(
            f"{what} must be a whole number from {least} to {most}, not {shown(value)}"
        )
    return value


def _fraction(value: Any, may_be_zero: bool, what: str) -> float:
    if type(value) not in (int, float) or not (0 < value < 1 or (may_be_zero and value == 0)):
        low = "at least 0" if may_be_zero else "above 0"
        raise InputError(f"{what} must be {low} and below 1, not {shown(value)}")
    return float(value)
