"""Reading and writing of weights in folders of the Hugging Face layout."""

import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minbert.errors import InputError
from minbert.files import CONFIG, WEIGHTS, weights_file, write_json
from minbert.model.classifier import BertClassifier
from minbert.model.encoder import BertEncoder
from minbert.model.heads import ClassificationHead

_FUSED: Final = ".self.qkv."
_PARTS: Final = (".self.query.", ".self.key.", ".self.value.")
"""Layers of the format that are one layer here, with their output rows in this order."""

_FIRST: Final = "embeddings.word_embeddings.weight"
_HEADS: Final = (
    "cls.", "classifier.", "discriminator_predictions.", "generator_", "lm_head.",
    "pre_classifier.", "qa_outputs.", "score.", "vocab_",
)  # fmt: skip
_POOLER: Final = "pooler."
_NO_WEIGHTS: Final = ("embeddings.position_ids", "embeddings.token_type_ids")
_OLD_NAMES: Final = {".gamma": ".weight", ".beta": ".bias"}
_LOADED: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types that need no separate scale, as types of fewer bits do."""
_MOST_NAMED: Final = 4

_T = TypeVar("_T")


@torch.no_grad()
def load_encoder(encoder: BertEncoder, folder: Path) -> bool:
    """Load the weights of the checkpoint in a folder into an encoder, as fp32; whether it has a
    pooler and the checkpoint none, which then stays as it is.

    Names may have a prefix (`bert.`) and the old endings `gamma` and `beta`. Heads are skipped, and
    so is a pooler if the encoder has none. InputError, and nothing changes, for no such folder or
    file; a file that is broken, or that would run code; tensors that are missing, unexpected, of
    another shape, not of floating-point numbers, or larger than the file.
    """
    path = weights_file(folder)
    tensors = _encoder_tensors(_read(path), path)
    parameters = dict(encoder.named_parameters())
    new_pooler = False
    if encoder.pooler is None:
        tensors = _without_pooler(tensors)
    elif new_pooler := not any(name.startswith(_POOLER) for name in tensors):
        parameters = _without_pooler(parameters)
    in_format = encoder.config.family.name_of
    expected = {
        in_format(part): chunk for named in parameters.items() for part, chunk in _split(*named)
    }
    _check_fit(expected, tensors, path)
    for name, parameter in parameters.items():
        values = torch.empty(parameter.shape) if parameter.is_meta else parameter
        for part, chunk in _split(name, values):
            chunk.copy_(tensors[in_format(part)])
        if parameter.is_meta:
            owner, _, own = name.rpartition(".")
            setattr(encoder.get_submodule(owner), own, nn.Parameter(values))
    return new_pooler


def state_dict_for_export(model: BertClassifier | BertEncoder) -> dict[str, Tensor]:
    """The tensors of a model on the CPU, under their names in the format and without fused layers.
    ValueError for those that the format has no names for: of adapters, or of a head that is not one
    linear layer."""
    encoder = model if isinstance(model, BertEncoder) else model.bert
    known = {name for name, _ in BertEncoder(encoder.config).named_parameters()}
    in_format = encoder.config.family.name_of
    if isinstance(model, BertClassifier):
        if not isinstance(model.classifier, nn.Linear | ClassificationHead):
            raise ValueError("the format has no place for a head that is not the architecture's")
        heads = (name for name, _ in model.classifier.named_parameters(prefix="classifier"))
        known = {f"bert.{name}" for name in known} | set(heads)
        in_format = model.format_name
    state = model.state_dict()
    if unknown := state.keys() - known:
        raise ValueError(f"the format has no {min(unknown)}; take the adapters out first")
    return {
        in_format(part): chunk.cpu()
        for name, tensor in state.items()
        for part, chunk in _split(name, tensor)
    }


def config_for_export(model: BertClassifier | BertEncoder) -> dict[str, Any]:
    """The contents of a model's config.json, with numbers as names of its classes."""
    config = model.config if isinstance(model, BertEncoder) else model.bert.config
    family, values = config.family, config.values()
    values |= {"model_type": config.model_type, "architectures": [f"{family.classes}Model"]}
    values["max_position_embeddings"] += values.pop("first_position", 0)
    if not family.types:
        del values["type_vocab_size"]
    values = {family.sizes.get(name, name): value for name, value in values.items()}
    if isinstance(model, BertEncoder):
        return values
    if model.heads[""].by_token:
        values["architectures"] = [f"{family.classes}ForTokenClassification"]
    elif model.bert.pooler is not None or isinstance(model.classifier, ClassificationHead):
        values["architectures"] = [f"{family.classes}ForSequenceClassification"]
    labels = {f"LABEL_{number}": number for number in range(model.heads[""].outputs)}
    return {
        **values,
        "classifier_dropout": model.dropout,
        "id2label": {str(number): label for label, number in labels.items()},
        "label2id": labels,
    }


def save_checkpoint(model: BertClassifier | BertEncoder, folder: Path) -> None:
    """Write a model as a checkpoint, without a tokenizer, that this project and transformers load.
    ValueError as of `state_dict_for_export`.

    transformers has no mean pooling: a model with it is loaded there as a `BertModel`, and the
    weights of its linear layer are additional tensors in the file.
    """
    tensors = state_dict_for_export(model)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, config_for_export(model))
    save_file(tensors, folder / WEIGHTS[0], metadata={"format": "pt"})


def _split(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Names in the format, and views, of the parts of a fused tensor; of another, itself."""
    if _FUSED not in name:
        yield name, tensor
        return
    for part, chunk in zip(_PARTS, tensor.chunk(len(_PARTS)), strict=True):
        yield name.replace(_FUSED, part), chunk


def _without_pooler(tensors: Mapping[str, _T]) -> dict[str, _T]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_POOLER)}


def _encoder_tensors(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    prefixes = [key.removesuffix(_FIRST) for key in tensors if f".{key}".endswith(f".{_FIRST}")]
    if len(prefixes) > 1:
        raise InputError(f"{path}: holds {len(prefixes)} encoders, under {_listed(prefixes)}")
    prefix = prefixes[0] if prefixes else ""
    named: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(prefix)
        is_other = not key.startswith(prefix) or (not prefix and name.startswith(_HEADS))
        if is_other or name in _NO_WEIGHTS:
            continue
        for old, new in _OLD_NAMES.items():
            if name.endswith(old):
                name = name.removesuffix(old) + new
        if name in named:
            raise InputError(f"{path}: holds {_listed([key])} under an old name and a new one")
        named[name] = tensor
    return named


def _check_fit(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    both = {name: tensors[name] for name in expected if name in tensors}
    shapes = {name: (list(t.shape), list(expected[name].shape)) for name, t in both.items()}
    whole = [name for name, t in both.items() if not t.is_floating_point()]
    other = {name: t.dtype for name, t in both.items() if t.dtype not in _LOADED}
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in expected],
        "of another shape": [f"{n} {a} instead of {b}" for n, (a, b) in shapes.items() if a != b],
        "not of floating-point numbers": whole,
        "of numbers that need a scale": [f"{n} {t}" for n, t in other.items() if n not in whole],
    }
    listed = "; ".join(f"{what}: {_listed(names)}" for what, names in problems.items() if names)
    if listed:
        raise InputError(f"{path}: is not the encoder that {CONFIG} describes; {listed}")
    needed = sum(tensor.numel() * tensor.element_size() for tensor in both.values())
    if needed > (present := path.stat().st_size):  # rows that repeat, at no cost in the file
        raise InputError(
            f"{path}: its tensors are {needed:,} bytes of numbers, and it has {present:,}; "
            f"save it again as {WEIGHTS[0]}"
        )


def _listed(names: list[str]) -> str:
    shown = [name if name.isprintable() else ascii(name) for name in names[:_MOST_NAMED]]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(name[:120] for name in shown) + more


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped where its format can be, without running anything in it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if mapped := zipfile.is_zipfile(path):  # files of torch before 1.6 are no zip files
            with zipfile.ZipFile(path) as archive:  # packed bytes would be taken for numbers
                if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
                    raise InputError(f"{path}: is packed, which torch never does; save it again")
        with warnings.catch_warnings(action="ignore"):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except InputError:
        raise
    except Exception as error:  # a broken pickle can raise anything
        raise InputError(
            f"{path}: is broken, cut short or no file of plain tensors "
            f"({type(error).__name__}); download it again, as {WEIGHTS[0]} if there is one"
        ) from error
    if not isinstance(loaded, dict) or not all(
        isinstance(key, str) and _is_plain(value) for key, value in loaded.items()
    ):
        raise InputError(f"{path}: holds no table of named tensors, as a checkpoint does")
    return loaded


def _is_plain(value: object) -> bool:
    """Whether a value is a tensor with a number in memory for each of its elements."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return not (value.is_meta or value.is_nested)
