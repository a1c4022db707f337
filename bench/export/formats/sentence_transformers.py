"""Modules of sentence-transformers whose `encode` gives logits: Transformer, Pooling, Dense.

Written as files of the layout that every version reads. The Transformer is in a folder of its own,
so that transformers doesn't load it as a model without a head. Adapters are merged: the library
drops the commit of an adapter's base, and would predict something else when the base changes.
"""

from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save_file
from torch import nn

from bench.common.errors import InputError
from bench.export.formats import contents
from bench.export.trained import Trained
from minbert.files import CONFIG, WEIGHTS, read_json, write_json
from minbert.model.checkpoint import save_checkpoint
from minbert.model.classifier import BertClassifier, Classifier
from minbert.model.heads import ClassificationHead, NonlinearHead

_TRANSFORMER: Final = "0_Transformer"
_LABELS: Final = "config_sentence_transformers.json"
_POOLING: Final = "1_Pooling"
_IDENTITY: Final = "torch.nn.modules.linear.Identity"
_TANH: Final = "torch.nn.modules.activation.Tanh"
_GELU: Final = "torch.nn.modules.activation.GELU"
_ACTIVATIONS: Final = {"tanh": _TANH, "gelu": _GELU, "relu": "torch.nn.modules.activation.ReLU"}
_MODULES: Final = "modules.json"
_SETTINGS: Final = "sentence_bert_config.json"
_NO_POOLER: Final = {"add_pooling_layer": False}
_VALUES: Final[dict[str, Any]] = {
    "activation_function": (_IDENTITY, *_ACTIVATIONS.values()), "model_args": ({}, _NO_POOLER),
}  # fmt: skip
_NUMBERS: Final = {
    "bias", "do_lower_case", "in_features", "max_seq_length", "out_features",
    "pooling_mode_cls_token", "pooling_mode_mean_tokens", "word_embedding_dimension",
}  # fmt: skip


def write(trained: Trained, folder: Path) -> None:
    if trained.dev.by_word:
        raise InputError("sentence-transformers has no place for tags of words: --format onnx")
    model = contents.final_model(trained, merge=True)
    layers = list(_dense_layers(model))
    transformer = folder / _TRANSFORMER
    if isinstance(model, BertClassifier):
        model.bert.pooler, width = None, model.bert.config.hidden_size
        save_checkpoint(model.bert, transformer)
        arguments = _NO_POOLER if model.bert.config.family.has_pooler else {}
    else:
        encoder = contents.library_model(model)
        encoder.save_pretrained(transformer)
        width, parameters = encoder.config.hidden_size, signature(type(encoder)).parameters
        arguments = _NO_POOLER if "add_pooling_layer" in parameters else {}
    contents.write_tokenizer(trained, transformer)
    length = trained.job.cell.max_length
    values = {"max_seq_length": length, "do_lower_case": False, "model_args": arguments}
    write_json(transformer / _SETTINGS, values)
    by_mean = trained.job.cell.pooling == "mean"
    pooling = {"pooling_mode_cls_token": not by_mean, "pooling_mode_mean_tokens": by_mean}
    (folder / _POOLING).mkdir()
    write_json(folder / _POOLING / CONFIG, {"word_embedding_dimension": width, **pooling})
    modules = _modules(len(layers))
    for (layer, activation), module in zip(layers, modules[2:], strict=True):
        (place := folder / module["path"]).mkdir()
        sizes = {"in_features": layer.in_features, "out_features": layer.out_features}
        write_json(place / CONFIG, {**sizes, "bias": True, "activation_function": activation})
        tensors = {f"linear.{name}": value for name, value in layer.state_dict().items()}
        save_file(tensors, place / WEIGHTS[0], metadata={"format": "pt"})
    write_json(folder / _LABELS, contents.labels_of(trained))
    write_json(folder / _MODULES, modules)


def _modules(layers: int) -> list[dict[str, Any]]:
    """The content of modules.json, by the number of dense layers."""
    kinds = ("Transformer", "Pooling", *("Dense",) * layers)
    return [
        {"idx": n, "name": str(n), "path": f"{n}_{k}", "type": f"sentence_transformers.models.{k}"}
        for n, k in enumerate(kinds)
    ]


def check_modules(folder: Path) -> None:
    """Refuse modules and settings other than those that `write` writes, by an InputError, before
    the library sees them, which imports and calls what they name."""
    path = folder / _MODULES
    listed = read_json(path, list)
    if listed != _modules(len(listed) - 2):
        raise InputError(
            f"{path}: type, path, idx or name of a module is not as bench.export writes it: "
            "Transformer, Pooling and Dense of sentence_transformers.models, in folders here"
        )
    for module in listed:
        path = folder / module["path"] / (_SETTINGS if module["path"] == _TRANSFORMER else CONFIG)
        for name, value in (read_json(path) or {_SETTINGS: None}).items():
            known = name in _NUMBERS and isinstance(value, int)
            if not (known or value in _VALUES.get(name, ())):
                raise InputError(f"{path}: {name[:60]!r} is not as bench.export writes it")


def _dense_layers(model: Classifier) -> Iterator[tuple[nn.Linear, str]]:
    """The layers of pooler and head, each with its activation."""
    if isinstance(model, BertClassifier) and model.bert.pooler is not None:
        yield model.bert.pooler.dense, _TANH
    if isinstance(model.classifier, ClassificationHead):
        yield model.classifier.dense, _ACTIVATIONS[model.classifier.head.activation]
    if isinstance(model.classifier, NonlinearHead):
        yield model.classifier.dense, _GELU
    yield contents.last_layer(model), _IDENTITY
