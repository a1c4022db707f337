"""The settings by which an exported folder's train.py trains the same cell again."""

import shutil
from pathlib import Path
from typing import Any, Final

from adapters.injection import training_of
from adapters.names import adapted_layers
from bench.export.formats.contents import base_values, labels_of
from bench.export.trained import Trained
from bench.plan.cell import ABOUT, MINBERT, Cell, named
from minbert.files import write_json
from minbert.model.classifier import BertClassifier

SCRIPT: Final = Path(__file__).parent / "snippets" / "train.py"
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
