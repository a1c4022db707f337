"""Models by their name on the command line: a checkpoint's folder, or a named geometry."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from adapters.names import adapted_layers
from bench.common.errors import InputError
from bench.plan.architectures import EncoderSizes, model_type_of, read_sizes
from bench.plan.cell import MINBERT, TRANSFORMERS, Cell, digest
from bench.plan.job import Job
from minbert.assets.embedded import fetch
from minbert.data.tokenizer import Tokenizer
from minbert.files import (
    POOLING,
    VOCABULARIES,
    config_file,
    is_file,
    is_folder,
    model_digest,
    read_json,
    vocabulary_digest,
)
from minbert.model.config import ACTIVATIONS, GEOMETRIES, BertConfig


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
        identity = digest([vars(GEOMETRIES[name]), vocabulary_digest(tokenizer)], 16)
        return Model(name, identity, chosen, GEOMETRIES[name], None, name, tokenizer, True)
    embedded = name == "minilm"
    folder = _folder(name)
    label = Path(name).resolve().name if not embedded and is_folder(name) else name
    config, why_not = _config(folder, label)
    if not embedded and not why_not:
        why_not = _why_not_tokenised(folder)
    if pooling == "auto" and not embedded:
        chosen = _pooling_of(folder)
    if init == "random":
        identity = digest([vars(config), vocabulary_digest(folder)], 16)
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
        _check_ranks(own, model.config)


def _config(folder: Path, label: str) -> tuple[BertConfig | EncoderSizes, str]:
    """The sizes of an encoder, and why engine minbert can't load it; empty: it can."""
    if (model_type := model_type_of(folder)) != "bert":
        why = f"{label} is of type {model_type}, and engine minbert loads bert"
        return read_sizes(folder), why
    path = config_file(folder)
    values = read_json(path)
    BertConfig.from_values({**values, "hidden_act": ACTIVATIONS[0]}, str(path))
    try:
        return BertConfig.from_values(values, str(path)), ""
    except InputError as error:  # its activation: transformers has more of them
        return read_sizes(folder), str(error)


def _why_not_tokenised(folder: Path) -> str:
    """Why the tokenizer of a BERT is not one of minbert's; empty: it is, or it is broken, which is
    an error once it is used."""
    if not any(is_file(folder / name) for name in VOCABULARIES):
        return f"{folder}: has no {' or '.join(VOCABULARIES)}"
    try:
        Tokenizer.from_folder(folder)
    except InputError as error:
        return str(error) if "no BERT vocabulary" in str(error) else ""
    return ""


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
    if pairs and isinstance(model.config, BertConfig) and model.config.type_vocab_size < 2:
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


def _check_ranks(cells: Sequence[Cell], config: BertConfig | EncoderSizes) -> None:
    """Refuse ranks above the width of an adapted layer of engine minbert."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    for cell in cells:
        if cell.rank is None or cell.layers is None or cell.engine != MINBERT:
            continue
        for layer in adapted_layers(cell.layers):
            wide = layer in ("intermediate.dense", "output.dense")
            width = min(hidden, intermediate) if wide else hidden
            if cell.rank > width:
                raise InputError(
                    f"rank {cell.rank} is above the width of {layer} in {cell.model}, which is "
                    f"{width}; take a rank of at most {width}"
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
