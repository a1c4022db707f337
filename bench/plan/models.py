"""Models by their name on the command line: a checkpoint's folder, or a named geometry."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from adapters.names import adapted_layers, unmatched_ends
from bench.common.errors import InputError
from bench.common.messages import shown
from bench.plan.architectures import model_type_of, read_sizes
from bench.plan.cell import MINBERT, TRANSFORMERS, Cell, digest
from bench.plan.job import Job
from minbert.assets.embedded import fetch
from minbert.files import (
    POOLING,
    config_file,
    is_file,
    is_folder,
    model_digest,
    read_json,
    vocabulary_digest,
)
from minbert.model.config import ACTIVATIONS, FAMILIES, GEOMETRIES, ONLY, BertConfig, EncoderSizes


@dataclass(frozen=True)
class Model:
    """A model whose files are here."""

    name: str  # as shown in rows and reports, without a path
    digest: str
    pooling: str
    config: BertConfig | EncoderSizes
    checkpoint: Path | None  # the folder of the weights; of a random init, of the configuration
    geometry: str | None
    tokenizer: Path
    embedded: bool = False  # whether it comes with the project, pinned by digest
    why_not_minbert: str = ""  # why engine minbert can't load it; empty: it can

    def job(self, cell: Cell, data: Path | None, **others: Any) -> Job:
        """The job of a cell on this model; its task's files are in a folder, or embedded (None)."""
        return Job(
            cell=cell,
            checkpoint=None if self.checkpoint is None else str(self.checkpoint.resolve()),
            geometry=self.geometry,
            tokenizer=str(self.tokenizer.resolve()),
            data=None if data is None else str(data.resolve()),
            **others,
        )


def find_model(name: str, init: str, pooling: str) -> Model:
    """The model of this name. InputError if there is no such model.

    Args:
        name: `minilm`, a folder in the Hugging Face layout, the name of a checkpoint on the
            Hugging Face hub, or, with init random, a named geometry.
        pooling: `pooler`, `cls`, `mean`, or `auto`: as the files of sentence-transformers in the
            folder say, if there are any; else pooler.
    """
    chosen = pooling if pooling != "auto" else "mean" if name == "minilm" else "pooler"
    if init == "random" and name in GEOMETRIES:
        tokenizer = fetch("minilm")
        identity = digest([GEOMETRIES[name].values(), vocabulary_digest(tokenizer)], 16)
        return Model(name, identity, chosen, GEOMETRIES[name], None, name, tokenizer, True)
    embedded = name == "minilm"
    folder = _folder(name)
    label = Path(name).resolve().name if not embedded and is_folder(name) else name
    config, why_not = _config(folder, label)
    if pooling == "auto" and not embedded:
        chosen = _pooling_of(folder)
    if init == "random":
        sizes = config.values() if isinstance(config, BertConfig) else vars(config)
        identity = digest([sizes, vocabulary_digest(folder)], 16)
    else:
        identity = model_digest(folder)[:16]
    return Model(label, identity, chosen, config, folder, None, folder, embedded, why_not)


def find_models(names: Sequence[str], init: str, pooling: str) -> dict[str, Model]:
    """The models of a grid by `Model.name`, to which a part of the digest is added where folders of
    the same name hold different models. InputError as `find_model`, or if two names stand for the
    same model."""
    models: dict[tuple[str, str], tuple[str, Model]] = {}
    for name in names:
        model = find_model(name, init, pooling)
        other, _ = models.setdefault((model.digest, model.pooling), (name, model))
        if other is not name:
            raise InputError(
                f"--model: {other} and {name} are the same model (digest {model.digest}); leave "
                "one out"
            )
    labels = Counter(model.name for _, model in models.values())
    return {
        label: replace(model, name=label)
        for _, model in models.values()
        for label in [model.name if labels[model.name] == 1 else f"{model.name}@{model.digest[:6]}"]
    }


def check_models(cells: Sequence[Cell], models: Mapping[str, Model], *, pairs: bool) -> None:
    """Refuse, by an InputError, lengths and ranks of cells that their models don't allow."""
    for name, model in models.items():
        own = [cell for cell in cells if cell.model == name]
        for length in dict.fromkeys(cell.max_length for cell in own):
            _check_length(length, model, pairs=pairs)
        if isinstance(model.config, BertConfig):
            _check_layers([cell for cell in own if cell.engine == MINBERT], model.config)


def _config(folder: Path, label: str) -> tuple[BertConfig | EncoderSizes, str]:
    """The sizes of an encoder, and why engine minbert can't load it; empty: it can."""
    if (model_type := model_type_of(folder)) not in FAMILIES:
        known = ", ".join(FAMILIES)
        why_not = f"{label} is of type {model_type}, and engine minbert loads {known}"
        return read_sizes(folder), why_not
    path = config_file(folder)
    values = read_json(path)
    usual = dict.fromkeys(("hidden_act", "activation"), ACTIVATIONS[0])
    BertConfig.from_values({n: v for n, v in values.items() if n not in ONLY} | usual, str(path))
    try:
        return BertConfig.from_values(values, str(path)), ""
    except InputError as error:  # what transformers has more of, such as activations
        return read_sizes(folder), str(error)


_POOLINGS: Final = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


def _pooling_of(folder: Path) -> str:
    """The pooling that an embedding model was trained for; else that of its architecture's head."""
    path = folder / POOLING
    values = read_json(path) if is_file(path) else {}
    return next((name for key, name in _POOLINGS.items() if values.get(key) is True), "pooler")


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


def _check_length(max_length: int, model: Model, *, pairs: bool) -> None:
    """Refuse a max_length that exceeds the encoder's positions or leaves no room for text, of which
    pairs form one sequence."""
    config = model.config
    is_bert = isinstance(config, BertConfig) and config.model_type == "bert"
    if pairs and is_bert and config.type_vocab_size < 2:
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


def _check_layers(cells: Sequence[Cell], config: BertConfig) -> None:
    """Refuse layers that the encoder has not, and ranks above the width of an adapted layer."""
    hidden, others = config.hidden_size, config.family.modules
    for cell in cells:
        if cell.layers is None:
            continue
        if ends := unmatched_ends(cell.layers, others):
            names = (others.get(name, name) for name in adapted_layers("all-lin"))
            raise InputError(
                f"layers {shown(cell.layers)}: {cell.model} has no linear layer whose name ends in "
                f"{ends[0]}; they are {', '.join(names)}"
            )
        for layer in adapted_layers(cell.layers, others):
            wide = layer in ("intermediate.dense", "output.dense")
            width = min(hidden, config.intermediate_size) if wide else hidden
            check_rank(cell, layer, width)


def check_rank(cell: Cell, layer: str, width: int) -> None:
    if cell.rank is not None and cell.rank > width:
        raise InputError(
            f"rank {cell.rank} is above the width of {layer} in {cell.model}, which is {width}; "
            f"take a rank of at most {width}"
        )


_LIBRARIES: Final = ("transformers", "peft")


def engine_version(why: str = "") -> str:
    """The versions of the libraries of engine transformers, such as `transformers 5.1.0, peft
    0.20.0`. If one is missing, the InputError has the command that installs them, and the reason
    for this engine."""
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        raise InputError(
            f"{f'{why}; ' if why else ''}engine {TRANSFORMERS} needs {' and '.join(missing)}: "
            "pip install -e '.[transformers]'"
        )
    return ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)
