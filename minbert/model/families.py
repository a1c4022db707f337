"""The encoders that differ from BERT in names and small things, by the `model_type` of their
config.json. Free of torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

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


BERT: Final = Family(prefix="bert", classes="Bert")
_ROBERTA: Final = Family(prefix="roberta", classes="Roberta", first_position=True, head=Head())
FAMILIES: Final[Mapping[str, Family]] = {
    "bert": BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": Family(prefix="roberta", classes="XLMRoberta", first_position=True, head=Head()),
    "camembert": Family(prefix="roberta", classes="Camembert", first_position=True, head=Head()),
    "data2vec-text": Family(
        prefix="data2vec_text", classes="Data2VecText", first_position=True, head=Head()
    ),
    "electra": Family(
        prefix="electra",
        classes="Electra",
        projects=True,
        has_pooler=False,
        head=Head(activation="gelu"),
    ),
    "distilbert": Family(
        prefix="distilbert",
        classes="DistilBert",
        sizes={
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
            "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout",
        },
        layers="transformer.layer",
        modules={
            "attention.self.query": "attention.q_lin",
            "attention.self.key": "attention.k_lin",
            "attention.self.value": "attention.v_lin",
            "attention.output.dense": "attention.out_lin",
            "attention.output.LayerNorm": "sa_layer_norm",
            "intermediate.dense": "ffn.lin1",
            "output.dense": "ffn.lin2",
            "output.LayerNorm": "output_layer_norm",
        },
        types=False,
        has_pooler=False,
        head=Head(dense="pre_classifier", out="classifier", activation="relu", drops_input=False),
    ),
}
