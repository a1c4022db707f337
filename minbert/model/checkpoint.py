"""Weights of an encoder: read from, and written to, folders in the Hugging Face layout."""

import json
import shutil
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minbert.errors import InputError
from minbert.files import CONFIG, TOKENIZER_CONFIG, VOCABULARIES, WEIGHTS, weights_file
from minbert.model.classifier import BertClassifier
from minbert.model.encoder import BertEncoder
from minbert.model.pickles import refuse_unsafe

_FUSED: Final = ".self.qkv."
_PARTS: Final = (".self.query.", ".self.key.", ".self.value.")
"""Layers of the format that are one here, its output rows in this order."""

_FIRST: Final = "embeddings.word_embeddings.weight"
_HEAD: Final = "classifier."
_HEADS: Final = ("cls.", _HEAD, "qa_outputs.", "score.")
_POOLER: Final = "pooler."
_NO_WEIGHTS: Final = ("embeddings.position_ids", "embeddings.token_type_ids")
_OLD_NAMES: Final = {".gamma": ".weight", ".beta": ".bias"}
_LOADED: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types of numbers that mean something by themselves: fewer bits have a scale beside them."""
_MOST_NAMED: Final = 4

_T = TypeVar("_T")


@torch.no_grad()
def load_encoder(encoder: BertEncoder, folder: Path) -> bool:
    """Give an encoder the weights of the checkpoint in a folder, as fp32.

    Names may have a prefix (`bert.`) and the old endings `gamma` and `beta`. Heads are passed
    over, and so is a pooler where the encoder has none. Nothing changes unless everything fits.

    Returns:
        Whether the encoder has a pooler and the checkpoint none: the pooler then is as it was,
        without values unless it was initialised before.

    Raises:
        InputError: no such folder or file; a file that is broken, or that would run code; tensors
            that are missing, unexpected, of another shape, not of floating-point numbers, or
            larger than the file.
    """
    path = weights_file(folder)
    given = _encoder_tensors(_read(path), path)
    parameters = dict(encoder.named_parameters())
    new_pooler = False
    if encoder.pooler is None:
        given = _without_pooler(given)
    elif not any(name.startswith(_POOLER) for name in given):
        parameters = _without_pooler(parameters)
        new_pooler = True
    wanted = dict(part for named in parameters.items() for part in _split(*named))
    _check_fit(wanted, given, path)
    for name, parameter in parameters.items():
        values = torch.empty(parameter.shape) if parameter.is_meta else parameter
        for part, chunk in _split(name, values):
            chunk.copy_(given[part])
        if parameter.is_meta:
            owner, _, own = name.rpartition(".")
            setattr(encoder.get_submodule(owner), own, nn.Parameter(values))
    return new_pooler


@torch.no_grad()
def load_classifier(model: BertClassifier, folder: Path) -> None:
    """Give a model all weights of a checkpoint that has its head too, as `save_checkpoint` writes.

    The encoder may change where the head does not fit.

    Raises:
        InputError: as `load_encoder`, of the head and the pooler too.
    """
    path = weights_file(folder)
    if load_encoder(model.bert, folder):
        raise InputError(f"{path}: has no pooler, and the model has one")
    given = {key: of for key, of in _read(path).items() if key.startswith(_HEAD)}
    wanted = {f"{_HEAD}{name}": of for name, of in model.classifier.named_parameters()}
    _check_fit(wanted, given, path, "head")
    for key in wanted:
        owner, _, own = key.rpartition(".")
        values = given[key].to(torch.float32, copy=True)
        setattr(model.get_submodule(owner), own, nn.Parameter(values))


def state_dict_for_export(model: BertClassifier) -> dict[str, Tensor]:
    """The tensors of a model under their names in the format, on the CPU, nothing fused.

    Raises:
        ValueError: if the model holds tensors that the format has no names for: adapters, or a
            head of another kind than one linear layer.
    """
    if not isinstance(model.classifier, nn.Linear):
        raise ValueError("the format has no place for a head that is not one linear layer")
    known = {f"bert.{name}" for name, _ in BertEncoder(model.bert.config).named_parameters()}
    known |= {"classifier.weight", "classifier.bias"}
    state = model.state_dict()
    if unknown := state.keys() - known:
        raise ValueError(f"the format has no {min(unknown)}; take the adapters out first")
    return {
        part: chunk.cpu() for name, tensor in state.items() for part, chunk in _split(name, tensor)
    }


def save_checkpoint(model: BertClassifier, folder: Path, tokenizer: Path) -> None:
    """Write a model as a checkpoint that this project and transformers load.

    transformers knows no mean pooling: a model that has it is a `BertModel` there, with the
    weights of its linear layer beside it in the file.

    Args:
        model: without adapters.
        folder: is made; files of the same names in it are replaced.
        tokenizer: the folder whose tokenizer files are copied.

    Raises:
        ValueError: as `state_dict_for_export`.
    """
    tensors = state_dict_for_export(model)
    folder.mkdir(parents=True, exist_ok=True)
    outputs = range(len(tensors["classifier.bias"]))
    pooled = model.bert.pooler is not None
    values = {
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification" if pooled else "BertModel"],
        "classifier_dropout": model.dropout,
        "id2label": {str(number): f"LABEL_{number}" for number in outputs},
        "label2id": {f"LABEL_{number}": number for number in outputs},
        **asdict(model.bert.config),
    }
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / WEIGHTS[0], metadata={"format": "pt"})
    for name in (*VOCABULARIES, TOKENIZER_CONFIG):
        if (tokenizer / name).is_file() and tokenizer.resolve() != folder.resolve():
            shutil.copyfile(tokenizer / name, folder / name)


def _split(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Names in the format, and views, of a tensor's parts: itself, unless it is fused."""
    if _FUSED not in name:
        yield name, tensor
        return
    for part, chunk in zip(_PARTS, tensor.chunk(len(_PARTS)), strict=True):
        yield name.replace(_FUSED, part), chunk


def _without_pooler(tensors: Mapping[str, _T]) -> dict[str, _T]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(_POOLER)}


def _encoder_tensors(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Those of a file's tensors that are an encoder's, under their names in the format."""
    prefixes = [key.removesuffix(_FIRST) for key in tensors if f".{key}".endswith(f".{_FIRST}")]
    if len(prefixes) > 1:
        raise InputError(f"{path}: holds {len(prefixes)} encoders, under {_listed(prefixes)}")
    prefix = prefixes[0] if prefixes else ""
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(prefix)
        is_other = not key.startswith(prefix) or (not prefix and name.startswith(_HEADS))
        if is_other or name in _NO_WEIGHTS:
            continue
        for old, new in _OLD_NAMES.items():
            if name.endswith(old):
                name = name.removesuffix(old) + new
        if name in found:
            raise InputError(f"{path}: holds {_listed([key])} under an old name and a new one")
        found[name] = tensor
    return found


def _check_fit(
    wanted: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    path: Path,
    what: str = "encoder",
) -> None:
    """Raise InputError unless the given tensors are the wanted ones."""
    both = [name for name in wanted if name in given]
    problems = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": [name for name in given if name not in wanted],
        "of another shape": [
            f"{name} {list(given[name].shape)} instead of {list(wanted[name].shape)}"
            for name in both
            if given[name].shape != wanted[name].shape
        ],
        "not of floating-point numbers": [
            name for name in both if not given[name].is_floating_point()
        ],
        "of numbers that need a scale": [
            f"{name} {given[name].dtype}"
            for name in both
            if given[name].is_floating_point() and given[name].dtype not in _LOADED
        ],
    }
    found = "; ".join(f"{what}: {_listed(names)}" for what, names in problems.items() if names)
    if found:
        raise InputError(f"{path}: is not the {what} that {CONFIG} describes; {found}")
    needed = sum(given[name].numel() * given[name].element_size() for name in both)
    if needed > (there := path.stat().st_size):  # rows that repeat, at no cost in the file
        raise InputError(
            f"{path}: its tensors are {needed:,} bytes of numbers, and it has {there:,}; "
            f"save it again as {WEIGHTS[0]}"
        )


def _listed(names: list[str]) -> str:
    """Some of the names, and how many more there are, fit for one line."""
    shown = [name if name.isprintable() else ascii(name) for name in names[:_MOST_NAMED]]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(name[:120] for name in shown) + more


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped where its format can be, without running anything in it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        refuse_unsafe(path)
        mapped = zipfile.is_zipfile(path)  # what torch wrote before 1.6 is none
        with warnings.catch_warnings(action="ignore"):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except InputError:
        raise
    except Exception as error:  # what a broken pickle raises can't be listed
        raise InputError(
            f"{path}: is broken, cut short or no file of plain tensors "
            f"({type(error).__name__}); download it again, as {WEIGHTS[0]} if there is one"
        ) from error
    if not isinstance(loaded, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in loaded.items()
    ):
        raise InputError(f"{path}: holds no table of named tensors, as a checkpoint does")
    return loaded
