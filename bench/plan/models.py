"""Models by their name on the command line: a checkpoint's folder, or a named geometry."""

from dataclasses import dataclass
from pathlib import Path

from adapters.names import adapted_layers
from bench.common.errors import InputError
from bench.plan.cell import Cell, digest
from minbert.assets.embedded import fetch
from minbert.files import is_folder, model_digest, vocabulary_digest
from minbert.model.config import GEOMETRIES, BertConfig


@dataclass(frozen=True)
class Model:
    """A model whose files are here.

    `name` is shown in rows and reports; it holds no path. `checkpoint` is the folder of the
    weights, or, for a random initialisation from a folder, of the configuration. `embedded` models
    come with the project, pinned by digest.
    """

    name: str
    digest: str
    pooling: str
    config: BertConfig
    checkpoint: Path | None
    geometry: str | None
    tokenizer: Path
    embedded: bool = False


def find_model(name: str, init: str, pooling: str) -> Model:
    """The model of this name.

    Args:
        name: `minilm`, a folder in the Hugging Face layout, the name of a checkpoint on the
            Hugging Face hub, or, with a random initialisation, a named geometry.
        init: `pretrained` or `random`.
        pooling: `pooler`, `mean`, or `auto`: mean for `minilm`, which was tuned for it.

    Raises:
        InputError: here or from `minbert`, if there is no such model.
    """
    chosen = pooling if pooling != "auto" else "mean" if name == "minilm" else "pooler"
    if init == "random" and name in GEOMETRIES:
        tokenizer = fetch("minilm")
        identity = digest([vars(GEOMETRIES[name]), vocabulary_digest(tokenizer)], 16)
        return Model(name, identity, chosen, GEOMETRIES[name], None, name, tokenizer, True)
    embedded = name == "minilm"
    folder = _folder(name)
    config = BertConfig.from_folder(folder)
    if init == "random":
        identity = digest([vars(config), vocabulary_digest(folder)], 16)
    else:
        identity = model_digest(folder)[:16]
    label = Path(name).resolve().name if not embedded and is_folder(name) else name
    return Model(label, identity, chosen, config, folder, None, folder, embedded)


def _folder(name: str) -> Path:
    if name == "minilm":
        return fetch("minilm")
    if is_folder(name):
        return Path(name).resolve()
    if name in GEOMETRIES:
        raise InputError(
            f"--model: {name} is a geometry without weights; --init random measures its cost, "
            "or give a checkpoint's folder or its name on the Hugging Face hub"
        )
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"--model: there is no folder {name}")
    from minbert.assets.hub import fetch_from_hub

    return fetch_from_hub(name)


def check_length(max_length: int, model: Model, *, pairs: bool) -> None:
    """Refuse a max_length that exceeds the encoder's positions or leaves no room for text.

    Args:
        pairs: whether two texts form one sequence.

    Raises:
        InputError: naming what doesn't fit.
    """
    if pairs and model.config.type_vocab_size < 2:
        raise InputError(
            f"--task: {model.name} has one token type, and a pair of texts needs two; "
            "take a task of single texts, or another model"
        )
    least = 4 if pairs else 3
    if max_length < least:
        raise InputError(
            f"max_length {max_length} leaves no room for text besides [CLS] and [SEP]; "
            f"set at least {least} in the grid file"
        )
    positions = model.config.max_position_embeddings
    if max_length > positions:
        raise InputError(
            f"max_length {max_length} is above the {positions} positions of {model.name}; "
            f"set at most {positions} in the grid file"
        )


def check_ranks(cells: list[Cell], config: BertConfig) -> None:
    """Refuse ranks above the width of an adapted layer.

    Raises:
        InputError: naming the rank, the layer and its width.
    """
    hidden, intermediate = config.hidden_size, config.intermediate_size
    for cell in cells:
        if cell.rank is None or cell.layers is None:
            continue
        for layer in adapted_layers(cell.layers):
            wide = layer in ("intermediate.dense", "output.dense")
            width = min(hidden, intermediate) if wide else hidden
            if cell.rank > width:
                raise InputError(
                    f"rank {cell.rank} is above the width of {layer} in {cell.model}, which is "
                    f"{width}; take a rank of at most {width}"
                )
