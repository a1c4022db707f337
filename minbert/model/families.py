"""The encoders that differ from BERT in names and small things, by the `model_type` of their
config.json: families.toml in this folder. Free of torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from minbert.registry import read_tables

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
