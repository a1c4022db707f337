"""The contents that exported folders of all formats share, and the settings by which train.py there
trains the same cell again."""

import json
import shutil
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from adapters.injection import training_of
from adapters.layer import AdaptedLinear
from adapters.names import adapted_layers
from bench.common.errors import InputError
from bench.common.messages import one_line
from bench.export.trained import Base, Trained
from bench.plan.cell import ABOUT, MINBERT, Cell, named
from minbert.data.tokenizer import Tokenizer
from minbert.files import CONFIG, TOKENIZER_CONFIG, VOCABULARIES, write_json
from minbert.kernels.linear import Linear
from minbert.model.checkpoint import config_for_export
from minbert.model.classifier import BertClassifier, Classifier

SCRIPT: Final = Path(__file__).parents[1] / "snippets" / "train.py"
SETTINGS: Final = "training.json"  # the file of settings, which the script reads
_MODES: Final = ("full", "head", "lora", "dora")
_TABLES: Final = ("word_embeddings", "position_embeddings", "token_type_embeddings")
_LINEAR: Final = ("attention.output.dense", "intermediate.dense", "output.dense")
_SAME: Final = named(lambda about: about.exported == "same")
"""Settings that the script reads under their names in a cell."""
_REFUSED: Final = named(lambda about: about.identifies and not about.exported)
"""Settings that the script does not know, in the words below or else by their names."""
_WORDS: Final = {
    "unfreeze": "gradual unfreezing", "early_stopping": "early stopping",
    "held_out": "held-out training examples", "regression_loss": "the loss {}", "folds": "folds",
    "gradient_accumulation_steps": "gradient accumulation",
}  # fmt: skip


@torch.no_grad()
def final_model(trained: Trained, *, merge: bool) -> Classifier:
    """A copy of a trained model whose logits are in the unit of the labels; merged, plain layers of
    the same function replace those with adapters. InputError if PEFT can't merge them."""
    model = deepcopy(trained.model)
    if merge:
        _merge(model, trained)
    mean, std = trained.unit
    if (mean, std) != (0.0, 1.0):
        last = last_layer(model)
        last.weight.mul_(std)
        last.bias.mul_(std).add_(mean)
    return model.eval()


def _merge(model: Classifier, trained: Trained) -> None:
    for name, layer in list(model.named_modules()):
        if isinstance(layer, AdaptedLinear):
            model.set_submodule(name, _plain(layer))
    adapted = vars(model).get("peft_model")
    if adapted is None:
        return
    try:
        adapted.merge_and_unload()
    except Exception as error:  # of many kinds, by the method
        raise InputError(
            f"{trained.row.name}: PEFT can't merge its adapters ({one_line(str(error))}); "
            "only --format peft has a place for them, with pooling pooler"
        ) from error


def library_model(model: Classifier) -> Any:
    """The model of transformers within one of engine transformers: the architecture's own with its
    head, or an encoder alone."""
    return vars(model)["model_of_library"]


def last_layer(model: Classifier) -> nn.Linear:
    """The layer whose outputs are the logits."""
    prefix = "bert" if isinstance(model, BertClassifier) else library_model(model).base_model_prefix
    layers = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not name.startswith(f"{prefix}.")
    ]
    return layers[-1]


def _plain(layer: AdaptedLinear) -> Linear:
    plain = Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(layer.adapted_weight())
    if layer.bias is not None:
        plain.bias = layer.bias
    return plain


def labels_of(trained: Trained) -> dict[str, Any]:
    """The entries of config.json that say what the logits mean; `text_pairs`, whether an example is
    two texts, and `window_stride` only this project's snippets read."""
    names = trained.task.classes or (trained.task.name,)
    stride = trained.job.cell.window_stride
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": trained.task.problem.library_type,
        "text_pairs": trained.dev.text_b is not None,
        **({"window_stride": stride} if stride else {}),
    }


def write_config(trained: Trained, model: Classifier, folder: Path, **others: Any) -> None:
    """Write config.json: the architecture of a model, the meaning of its logits, and others."""
    if isinstance(model, BertClassifier):
        values = config_for_export(model)
    else:
        inner = library_model(model)
        values = json.loads(inner.config.to_json_string())
        values["architectures"] = [type(inner).__name__]
    write_json(folder / CONFIG, {**values, **labels_of(trained), **others})


def write_tokenizer(trained: Trained, folder: Path) -> None:
    """Write the tokenizer, which cuts texts as in training, with no code or settings of its own."""
    if isinstance(tokenizer := trained.tokenizer, Tokenizer):
        text = tokenizer.to_json()
        special = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP")}
    else:
        library = tokenizer.origin
        text = library.backend_tokenizer.to_str(pretty=True)
        special = {name: str(token) for name, token in library.special_tokens_map.items()}
        special.setdefault("pad_token", library.convert_ids_to_tokens(trained.model.pad_id))
    (folder / VOCABULARIES[0]).write_text(text, encoding="utf-8")
    types = ["token_type_ids"] if trained.model.takes_types else []
    write_json(
        folder / TOKENIZER_CONFIG,
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": trained.job.cell.max_length,
            "model_input_names": ["input_ids", *types, "attention_mask"],
            "padding_side": "right",
            "truncation_side": "right",
            **special,
        },
    )


def base_values(base: Base) -> dict[str, Any]:
    """The content of base.json: the checkpoint by its name, and the digest of its weights."""
    return {name: value for name, value in asdict(base).items() if name != "folder"}


def reference(base: Base) -> str:
    """The base as adapters name it: its name on the hub, or the digest of its weights."""
    return base.name if base.on_hub else f"sha256:{base.sha256}"


def why_not_scripted(cell: Cell, model_type: str = "bert", plugin: str | None = None) -> str | None:
    """One line: the setting of a cell that the script has no place for, the architecture of its
    encoder, or its plugin's problem; None: it has all."""
    refused = {name: getattr(cell, name) for name in dict.fromkeys((*_WORDS, *_REFUSED))}
    obstacles = {
        f"engine {cell.engine}": cell.engine != MINBERT,
        f"the architecture {model_type}": model_type != "bert",
        f"the mode {cell.mode}": cell.mode not in _MODES,
        f"the problem {plugin}": plugin is not None,
        **{
            _WORDS.get(name, f"{name} {{}}").format(value): value not in (None, ABOUT[name].before)
            for name, value in refused.items()
        },
        f"the {cell.head} head": cell.head == "conv",
        "a part of the training examples": cell.max_train is not None,
    }
    missing = [name for name, is_set in obstacles.items() if is_set]
    return f"{SCRIPT.name} has no place for {', '.join(missing)}" if missing else None


def model_type_of(trained: Trained) -> str:
    """The architecture of an encoder, as its config.json calls it; of engine transformers, whose
    cells have no script, BERT."""
    model = trained.model
    return model.bert.config.model_type if isinstance(model, BertClassifier) else "bert"


def write_training(trained: Trained, folder: Path) -> None:
    """Write train.py and its settings into an exported folder, unless it has no place for them."""
    cell = trained.job.cell
    why_not = why_not_scripted(cell, model_type_of(trained), trained.task.plugin)
    if why_not is None and not trained.refitted:
        shutil.copyfile(SCRIPT, folder / SCRIPT.name)
        write_json(folder / SETTINGS, training_settings(trained))


def training_settings(trained: Trained) -> dict[str, Any]:
    """The content of training.json: everything but the examples that decides a training.

    `base` is as in base.json, `labels` as in config.json. `adapted` has the endings of the names of
    layers with adapters, `trains` those of modules that train as a whole, in two groups with a rate
    each: the head, with a pooler that the base lacks, and the base. Targets of a regression are
    standardised by `mean` and `std`.
    """
    cell, choice = trained.job.cell, training_of(trained.model)
    linear = adapted_layers(cell.layers) if cell.layers is not None else ()
    by_word, pools = trained.dev.by_word, cell.pooling == "pooler"
    pooler = ["pooler"] if pools and not by_word else []
    head = ["classifier" if cell.head == "linear" and pools else "head"]
    whole: list[str] = []
    full = cell.mode == "full"
    if full:
        whole = ["bert"]
    elif choice.base:
        whole = [*_TABLES, "LayerNorm", *(name for name in _LINEAR if name not in linear)]
        whole += [] if choice.new_pooler else pooler
    return {
        "base": base_values(trained.base),
        "labels": labels_of(trained),
        "by_word": by_word,
        **{name: getattr(cell, name) for name in _SAME},
        "mean": trained.unit[0],
        "std": trained.unit[1],
        "adapted": list(linear),
        "trains": {"head": head + (pooler if choice.new_pooler else []), "base": whole},
        "rates": {
            "adapter": None if full else cell.learning_rate,
            "base": cell.learning_rate if full else cell.learning_rate_base,
            "head": cell.learning_rate if full else cell.learning_rate_head,
        },
    }
